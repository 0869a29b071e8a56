// The blocks of a BERT or a GPT-2 on a CPU, all of them in one call: rows of tokens lie one after another, and a GPT's
// keys and values are kept in slots. Weights are laid out once; in int8 they are rounded by output, activations by token,
// and products are sums of integers. Threads are started once for all blocks.

#include <memory>
#include <vector>

#include "linear.h"

namespace {

constexpr int FEW = 12;  // new tokens up to which keys are read where they lie
constexpr int WIDE = 8;  // vectors of a sum of values that are kept in registers

struct Norm {
    Array<float> weight, bias;
    float eps;
    Norm(int width, const float* w, const float* b, float eps) : weight(width), bias(width), eps(eps) {
        std::copy(w, w + width, weight.data);
        std::copy(b, b + width, bias.data);
    }
    void operator()(const float* x, float* y, int width) const {
        Float totals{};
        float mean = 0, square = 0;
        int i = 0;
        for (; i + LANES <= width; i += LANES) totals += load(x + i);
        for (mean = sum(totals); i < width; i++) mean += x[i];
        mean /= width;
        totals = Float{};
        for (i = 0; i + LANES <= width; i += LANES) {
            Float d = load(x + i) - mean;
            totals += d * d;
        }
        for (square = sum(totals); i < width; i++) square += (x[i] - mean) * (x[i] - mean);
        float inverse = 1 / std::sqrt(square / width + eps);
        for (i = 0; i < width; i++) y[i] = (x[i] - mean) * inverse * weight.data[i] + bias.data[i];
    }
};

struct Block {
    Linear qkv, out, up, down;
    Norm norm1, norm2;
};

// New tokens of a sequence, what it has in the cache before them, and the slots of all its tokens.
struct Sequence {
    int32_t tokens, before;
    const int64_t* slots;
};

struct Blocks {
    int hidden, ffn, heads;
    size_t slots = 0;  // of the cache
    bool norm_first, causal;
    After gelu;
    std::vector<std::unique_ptr<Block>> blocks;
    Array<float> normed, qkv, attended, inner;
    Rows rows;

    // Rows of `from`, normalised or as they are, made ready for products.
    void ready(const float* from, int count, int width, const Norm* norm, bool integers) {
#pragma omp for schedule(static)
        for (int row = 0; row < count; row += ROWS) {
            int few = std::min(ROWS, count - row);
            const float* at = from + (size_t)row * width;
            float* to = normed.data + (size_t)row * width;
            for (int r = 0; r < few && norm; r++) (*norm)(at + (size_t)r * width, to + (size_t)r * width, width);
            rows.take(row, few, norm ? to : at, width, integers);
        }
    }

    // One head of a sequence: its queries, and where the key and the value of any token lie.
    struct Head {
        const float* q;
        float *keys, *values;  // of the cache, or null
        const int64_t* slots;
        int width;
        size_t stride;  // between the tokens of q, behind whose queries their own keys and values lie

        float* key(int j) const { return keys ? keys + slots[j] * width : own(j, 1); }
        float* value(int j) const { return values ? values + slots[j] * width : own(j, 2); }
        float* own(int j, int which) const { return (float*)q + j * stride + which * stride / 3; }
    };

    // Keys and values are [heads][slots][width]; those of new tokens are written there first.
    void attend(const Sequence& sequence, int first, int number, float* keys, float* values) {
        int width = hidden / heads;
        size_t three = 3 * (size_t)hidden, of = (size_t)number * slots * width;
        Head head{qkv.data + first * three + number * width, keys ? keys + of : nullptr, keys ? values + of : nullptr,
                  sequence.slots, width, three};
        for (int i = 0; i < sequence.tokens && keys; i++) {
            std::copy(head.own(i, 1), head.own(i, 1) + width, head.key(sequence.before + i));
            std::copy(head.own(i, 2), head.own(i, 2) + width, head.value(sequence.before + i));
        }
        float* y = attended.data + (size_t)first * hidden + number * width;
        if (sequence.tokens <= FEW) few(head, sequence, y);
        else many(head, sequence, y);
    }

    // Token by token, keys and values read where they lie.
    void few(const Head& head, const Sequence& sequence, float* y) {
        int width = head.width, all = sequence.before + sequence.tokens;
        static thread_local Array<float> scores;
        scores.grow(all + LANES);
        for (int i = 0; i < sequence.tokens; i++, y += hidden) {
            int seen = causal ? sequence.before + i + 1 : all;
            for (int j = 0; j < seen; j++)
                scores.data[j] = inner_product(head.q + i * head.stride, head.key(j), width);
            softmax(scores.data, seen, seen, 1 / std::sqrt((float)width));
            int d = 0;
            for (; d + LANES <= width; d += std::min(WIDE, (width - d) / LANES) * LANES)
                dispatch<WIDE>(std::min(WIDE, (width - d) / LANES), [&](auto n) {
                    Float sums[n()] = {};
                    for (int j = 0; j < seen; j++)
                        for (int v = 0; v < n(); v++) sums[v] += scores.data[j] * load(head.value(j) + d + v * LANES);
                    for (int v = 0; v < n(); v++) store(y + d + v * LANES, sums[v]);
                });
            for (; d < width; d++) {
                y[d] = 0;
                for (int j = 0; j < seen; j++) y[d] += scores.data[j] * head.value(j)[d];
            }
        }
    }

    // ROWS tokens at a time, keys and values laid out for products before.
    void many(const Head& head, const Sequence& sequence, float* y) {
        int width = head.width, tokens = sequence.tokens, before = sequence.before, all = before + tokens;
        int wide = (all + PANEL - 1) / PANEL * PANEL, broad = (width + PANEL - 1) / PANEL * PANEL;
        static thread_local Array<float> scores, across, along;  // across [keys / PANEL][width][PANEL]
        scores.grow((size_t)ROWS * wide);                        // along [width / PANEL][keys][PANEL]
        across.grow((size_t)width * wide);
        along.grow((size_t)all * broad);
        for (int j = 0; j < all; j++) {
            const float *k = head.key(j), *v = head.value(j);
            float* to = across.data + (size_t)(j / PANEL * width) * PANEL + j % PANEL;
            for (int d = 0; d < width; d++) to[(size_t)d * PANEL] = k[d];
            for (int d = 0; d < width; d += PANEL)
                std::copy(v + d, v + std::min(d + PANEL, width), along.data + (size_t)d * all + (size_t)j * PANEL);
        }
        alignas(64) float out[ROWS * PANEL];
        for (int i = 0; i < tokens; i += ROWS)
            dispatch<ROWS>(std::min(ROWS, tokens - i), [&](auto n) {
                int seen = causal ? before + i + n() : all;
                for (int j = 0; j < seen; j += PANEL)
                    tile<n(), 1>(head.q + i * head.stride, head.stride, across.data + (size_t)j * width, width,
                                 scores.data + j, wide);
                for (int r = 0; r < n(); r++)
                    softmax(scores.data + r * wide, causal ? before + i + r + 1 : all, seen, 1 / std::sqrt((float)width));
                for (int d = 0; d < width; d += PANEL) {
                    float* to = y + (size_t)i * hidden + d;
                    bool whole = d + PANEL <= width;
                    tile<n(), 1>(scores.data, wide, along.data + (size_t)d * all, seen, whole ? to : out,
                                 whole ? hidden : PANEL);
                    for (int r = 0; r < n() && !whole; r++)
                        std::copy(out + r * PANEL, out + r * PANEL + width - d, to + (size_t)r * hidden);
                }
            });
    }

    static float inner_product(const float* a, const float* b, int width) {
        Float totals{};
        int d = 0;
        for (; d + LANES <= width; d += LANES) totals += load(a + d) * load(b + d);
        float total = sum(totals);
        for (; d < width; d++) total += a[d] * b[d];
        return total;
    }

    // Of the first `seen` of `count`, rounded up to whole vectors; the rest become 0.
    static void softmax(float* x, int seen, int count, float scale) {
        count = (count + LANES - 1) / LANES * LANES;
        std::fill(x + seen, x + count, -INFINITY);
        Float top = load(x), total{};
        for (int j = LANES; j < count; j += LANES) top = larger(top, load(x + j));
        float largest = top[0];
        for (int lane = 1; lane < LANES; lane++) largest = std::max(largest, top[lane]);
        for (int j = 0; j < count; j += LANES) {
            Float e = exponential((load(x + j) - largest) * scale);
            store(x + j, e);
            total += e;
        }
        float inverse = 1 / sum(total);
        for (int j = 0; j < count; j += LANES) store(x + j, load(x + j) * inverse);
        std::fill(x + seen, x + count, 0.0f);
    }

    void run(float* x, const Sequence* sequences, int count, float* const* keys, float* const* values, int threads) {
        std::vector<int> firsts(count + 1, 0);
        for (int s = 0; s < count; s++) firsts[s + 1] = firsts[s] + sequences[s].tokens;
        int tokens = firsts[count];
        normed.grow((size_t)tokens * hidden);
        attended.grow((size_t)tokens * hidden);
        qkv.grow((size_t)tokens * 3 * hidden);
        inner.grow((size_t)tokens * ffn);
        rows.grow(tokens, std::max(hidden, ffn), blocks[0]->qkv.integers);
#pragma omp parallel num_threads(threads)
        for (size_t layer = 0; layer < blocks.size(); layer++) {
            const Block& block = *blocks[layer];
            bool integers = block.qkv.integers;
            ready(x, tokens, hidden, norm_first ? &block.norm1 : nullptr, integers);
            multiply(block.qkv, rows, tokens, qkv.data, PLAIN);
#pragma omp for collapse(2) schedule(dynamic)
            for (int s = count - 1; s >= 0; s--)
                for (int head = 0; head < heads; head++)
                    attend(sequences[s], firsts[s], head, keys ? keys[layer] : nullptr, keys ? values[layer] : nullptr);
            ready(attended.data, tokens, hidden, nullptr, integers);
            multiply(block.out, rows, tokens, x, ADD);
            if (!norm_first) normalize(x, tokens, block.norm1);
            ready(x, tokens, hidden, norm_first ? &block.norm2 : nullptr, integers);
            multiply(block.up, rows, tokens, inner.data, gelu);
            ready(inner.data, tokens, ffn, nullptr, integers);
            multiply(block.down, rows, tokens, x, ADD);
            if (!norm_first) normalize(x, tokens, block.norm2);
        }
    }

    void normalize(float* x, int count, const Norm& norm) {
#pragma omp for schedule(static)
        for (int row = 0; row < count; row++) norm(x + (size_t)row * hidden, x + (size_t)row * hidden, hidden);
    }
};

}  // namespace

extern "C" {

Blocks* blocks_new(int hidden, int ffn, int heads, int norm_first, int causal, int tanh) {
    auto made = new Blocks{};
    made->hidden = hidden, made->ffn = ffn, made->heads = heads;
    made->norm_first = norm_first, made->causal = causal, made->gelu = tanh ? TANH : ERF;
    return made;
}

// Weights and biases of qkv (queries, keys, values one below the other), out, up and down; weights and biases of the norms.
void blocks_add(Blocks* blocks, int integers, float eps, const float* const* w) {
    int hidden = blocks->hidden, ffn = blocks->ffn;
    blocks->blocks.emplace_back(new Block{
        {hidden, 3 * hidden, (bool)integers, w[0], w[1]}, {hidden, hidden, (bool)integers, w[2], w[3]},
        {hidden, ffn, (bool)integers, w[4], w[5]}, {ffn, hidden, (bool)integers, w[6], w[7]},
        {hidden, w[8], w[9], eps}, {hidden, w[10], w[11], eps}});
}

void blocks_run(Blocks* blocks, float* x, const Sequence* sequences, int count, float* const* keys,
                float* const* values, int64_t slots, int threads) {
    blocks->slots = slots;
    blocks->run(x, sequences, count, keys, values, threads);
}

void blocks_free(Blocks* blocks) { delete blocks; }

Linear* linear_new(int inputs, int outputs, int integers, const float* weight, const float* bias) {
    return new Linear(inputs, outputs, integers, weight, bias);
}

void linear_run(Linear* linear, const float* x, int count, float* y, int threads) {
    static thread_local Rows rows;
    Rows& own = rows;
    own.grow(count, linear->inputs, linear->integers);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int row = 0; row < count; row += ROWS)
            own.take(row, std::min(ROWS, count - row), x + (size_t)row * linear->inputs, linear->inputs,
                     linear->integers);
        multiply(*linear, own, count, y, PLAIN);
    }
}

void linear_free(Linear* linear) { delete linear; }
}
