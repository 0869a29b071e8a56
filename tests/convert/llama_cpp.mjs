// llama.cpp reads a GGUF file: node llama_cpp.mjs NODE_MODULES FILE, with {prompt, texts, tokens} in JSON on stdin, prints
// the tokens of the prompt and of the texts, and the greedy tokens that follow the prompt, in JSON.
import {readFileSync} from "node:fs";
import {pathToFileURL} from "node:url";

const [modules, file] = process.argv.slice(2);
const {getLlama} = await import(pathToFileURL(`${modules}/node-llama-cpp/dist/index.js`));
const {prompt, texts, tokens} = JSON.parse(readFileSync(0, "utf8"));

const llama = await getLlama({gpu: false, build: "never", skipDownload: true, logLevel: "error"});
const model = await llama.loadModel({modelPath: file});
const context = await model.createContext({contextSize: 256, threads: 1});
const sequence = context.getSequence();
const asked = model.tokenize(prompt, true);
const written = [];
for await (const token of sequence.evaluate(asked, {temperature: 0})) {
    if (model.isEogToken(token)) break;
    written.push(token);
    if (written.length === tokens) break;
}
const template = model.fileInfo.metadata.tokenizer.chat_template;
console.log(JSON.stringify({
    prompt: asked, texts: texts.map((text) => model.tokenize(text, true)), written, text: model.detokenize(written),
    template, release: llama.llamaCppRelease,
}));
await context.dispose();
process.exit(0);
