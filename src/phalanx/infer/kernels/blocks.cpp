// The blocks of a BERT or a GPT-2 on a CPU, all of them in one call: rows of tokens lie one after another, and a GPT's
// keys and values are kept in slots. Weights are laid out once, in panels of outputs; in int8 they are rounded by
// output, activations by token, and products are sums of integers. Threads are started once for all blocks.

#include <immintrin.h>
#include <omp.h>
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

namespace {

#ifdef __AVX512F__
constexpr int LANES = 16, ROWS = 12;
#else
constexpr int LANES = 8, ROWS = 6;
#endif
constexpr int PANEL = 2 * LANES;  // outputs that are computed together
constexpr int CHUNK = 96;         // rows of a task: a multiple of ROWS
constexpr int FEW = 12;           // new tokens up to which keys are read where they lie
constexpr int WIDE = 8;           // vectors of a sum of values that are kept in registers

typedef float Float __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Int __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

// Dot products of two fours of bytes in every lane: activations of 0 to TOP, weights of -STEPS to STEPS. Without
// instructions that sum four products at once, four have to fit into 16 bits.
#if defined(__AVX512VNNI__)
constexpr int TOP = 255, STEPS = 127;
inline Int dot(Int sum, Int a, Int w, Int b, Int v) {
    __m512i first = _mm512_dpbusd_epi32((__m512i)sum, (__m512i)a, (__m512i)w);
    return (Int)_mm512_dpbusd_epi32(first, (__m512i)b, (__m512i)v);
}
#elif defined(__AVX512BW__)
constexpr int TOP = 127, STEPS = 63;
inline Int dot(Int sum, Int a, Int w, Int b, Int v) {
    __m512i first = _mm512_maddubs_epi16((__m512i)a, (__m512i)w), second = _mm512_maddubs_epi16((__m512i)b, (__m512i)v);
    return sum + (Int)_mm512_madd_epi16(_mm512_add_epi16(first, second), _mm512_set1_epi16(1));
}
#elif defined(__AVXVNNI__)
constexpr int TOP = 255, STEPS = 127;
inline Int dot(Int sum, Int a, Int w, Int b, Int v) {
    __m256i first = _mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)a, (__m256i)w);
    return (Int)_mm256_dpbusd_avx_epi32(first, (__m256i)b, (__m256i)v);
}
#else
constexpr int TOP = 127, STEPS = 63;
inline Int dot(Int sum, Int a, Int w, Int b, Int v) {
    __m256i first = _mm256_maddubs_epi16((__m256i)a, (__m256i)w), second = _mm256_maddubs_epi16((__m256i)b, (__m256i)v);
    return sum + (Int)_mm256_madd_epi16(_mm256_add_epi16(first, second), _mm256_set1_epi16(1));
}
#endif

inline Float load(const float* p) { return *(const Float*)p; }
inline void store(float* p, Float x) { *(Float*)p = x; }
inline Float real(Int x) { return __builtin_convertvector(x, Float); }
inline Float least(Float a, Float b) { return a < b ? a : b; }
inline Float most(Float a, Float b) { return a > b ? a : b; }

inline float sum(Float x) {
#ifdef __AVX512F__
    return _mm512_reduce_add_ps((__m512)x);
#else
    __m128 half = _mm_add_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
#endif
}

// e^x to 2e-7: a power of two times a polynomial over [-ln 2 / 2, ln 2 / 2].
inline Float power(Float x) {
    x = least(most(x, Float{} - 87.0f), Float{} + 88.0f);
    Float halves = x * 1.44269504f + (x < 0 ? Float{} - 0.5f : Float{} + 0.5f);
    Int twos = __builtin_convertvector(halves, Int);
    Float rest = x - real(twos) * 0.693359375f + real(twos) * 2.12194440e-4f;
    Float p = Float{} + 1.9875691500e-4f;
    for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        p = p * rest + c;
    Int bits = (twos + 127) << 23;
    return (p * rest * rest + rest + 1.0f) * (Float)bits;
}

inline Float gelu_tanh(Float x) {
    Float inner = 0.7978845608f * (x + 0.044715f * x * x * x);
    return x / (1.0f + power(-2.0f * inner));
}

// By Abramowitz and Stegun 7.1.26, whose erf is off by 1.5e-7 at most.
inline Float gelu_erf(Float x) {
    Float z = x * 0.70710678f, positive = z < 0 ? -z : z;
    Float t = 1.0f / (1.0f + 0.3275911f * positive);
    Float p = Float{} + 1.061405429f;
    for (float c : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f}) p = p * t + c;
    Float half = 0.5f * p * t * power(-z * z);  // (1 - erf |z|) / 2
    return x * (z < 0 ? half : 1.0f - half);
}

template <typename T>
struct Array {
    size_t size = 0;
    T* data = nullptr;
    Array() = default;
    explicit Array(size_t n) { grow(n); }
    Array(const Array&) = delete;
    Array& operator=(const Array&) = delete;
    ~Array() { free(data); }
    void grow(size_t n) {  // what was in it is lost
        if (n <= size) return;
        free(data);
        constexpr size_t page = 2 << 20;
        size_t bytes = (n * sizeof(T) + 127) / 64 * 64;  // a vector may be read past the end
        bool large = bytes >= page;
        data = (T*)aligned_alloc(large ? page : 64, large ? (bytes + page - 1) / page * page : bytes);
        if (!data) abort();
        if (large) madvise(data, bytes, MADV_HUGEPAGE);
        size = n;
        std::fill((char*)data, (char*)data + bytes, 0);
    }
};

enum After { PLAIN, ERF, TANH, ADD };

struct Linear {
    int inputs, outputs, panels, fours;  // fours of inputs, an even number
    bool integers;
    Array<float> weight, bias, scale, shift;  // [panels][inputs][PANEL]; by output
    Array<int8_t> rounded;                    // [panels][fours][PANEL][4]

    Linear(int inputs, int outputs, bool integers, const float* w, const float* b)
        : inputs(inputs), outputs(outputs), panels((outputs + PANEL - 1) / PANEL), fours((inputs + 7) / 8 * 2),
          integers(integers), bias(panels * PANEL), scale(panels * PANEL), shift(panels * PANEL) {
        if (b) std::copy(b, b + outputs, bias.data);
        if (integers) rounded.grow((size_t)panels * fours * 4 * PANEL);
        else weight.grow((size_t)panels * inputs * PANEL);
#pragma omp parallel for
        for (int n = 0; n < outputs; n++) integers ? round(n, w + (size_t)n * inputs) : lay(n, w + (size_t)n * inputs);
    }

    void lay(int n, const float* w) {
        float* to = weight.data + (size_t)(n / PANEL) * inputs * PANEL + n % PANEL;
        for (int k = 0; k < inputs; k++) to[(size_t)k * PANEL] = w[k];
    }

    void round(int n, const float* w) {
        float top = 0;
        for (int k = 0; k < inputs; k++) top = std::isnan(w[k]) ? w[k] : std::max(top, std::fabs(w[k]));
        scale.data[n] = top / STEPS;
        int8_t* to = rounded.data + ((size_t)(n / PANEL) * fours * PANEL + n % PANEL) * 4;
        int total = 0;
        for (int k = 0; k < inputs; k++) {
            int value = top > 0 ? (int)std::nearbyint(w[k] / scale.data[n]) : 0;
            to[(size_t)(k / 4) * PANEL * 4 + k % 4] = value;
            total += value;
        }
        shift.data[n] = scale.data[n] * total;
    }
};

// Rows as products take them: in fp32 ROWS of them interleaved, so that a tile reads on and on; or as bytes,
// x = low + step * byte.
struct Rows {
    Array<float> packed, low, step;
    Array<uint8_t> bytes;
    size_t width = 0;

    void grow(int rows, int inputs, bool integers) {
        width = (inputs + 7) / 8 * 8;
        if (integers) bytes.grow(rows * width), low.grow(rows), step.grow(rows);
        else packed.grow((size_t)(rows + ROWS) * inputs);
    }

    // `count` rows from `row` on, which is a multiple of ROWS; ROWS of them at most.
    void take(int row, int count, const float* from, int inputs, bool integers) {
        for (int r = 0; r < count && integers; r++) round(row + r, from + (size_t)r * inputs, inputs);
        if (integers) return;
        float* to = packed.data + (size_t)row * inputs;
        for (int i = 0; i < inputs; i++)
            for (int r = 0; r < count; r++) to[(size_t)i * ROWS + r] = from[(size_t)r * inputs + i];
    }

    void round(int row, const float* from, int inputs) {
        Float smallest = Float{} + from[0], largest = smallest, odd{};
        float a = from[0], b = a, strange = a - a;  // what is not finite leaves a NaN there
        int i = 0;
        for (; i + LANES <= inputs; i += LANES) {
            Float x = load(from + i);
            smallest = least(smallest, x), largest = most(largest, x), odd += x - x;
        }
        for (int lane = 0; lane < LANES; lane++) a = std::min(a, smallest[lane]), b = std::max(b, largest[lane]);
        for (; i < inputs; i++) a = std::min(a, from[i]), b = std::max(b, from[i]), strange += from[i] - from[i];
        low.data[row] = a;
        step.data[row] = (b - a) / TOP + sum(odd) + strange;
        float inverse = b > a ? (float)TOP / (b - a) : 0;
        uint8_t* to = bytes.data + row * width;
        for (i = 0; i < inputs; i++) to[i] = (uint8_t)(int)((from[i] - a) * inverse + 0.5f);
    }
};

// out[R][PANEL] = a[R][depth] b[depth][PANEL]; a's rows are `a_row` apart, its columns STEP.
template <int R, int STEP>
void tile(const float* a, size_t a_row, const float* b, int depth, float* out, size_t out_row) {
    Float sums[R][2] = {};
    for (int k = 0; k < depth; k++) {
        Float first = load(b + k * PANEL), second = load(b + k * PANEL + LANES);
        for (int r = 0; r < R; r++) {
            float x = a[r * a_row + k * STEP];
            sums[r][0] += x * first;
            sums[r][1] += x * second;
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < 2; v++) store(out + r * out_row + v * LANES, sums[r][v]);
}

template <int R>
void tile(const Rows& rows, int row, const Linear& linear, int panel, float* out) {
    const int8_t* w = linear.rounded.data + (size_t)panel * linear.fours * PANEL * 4;
    const uint8_t* a = rows.bytes.data + row * rows.width;
    Int sums[R][2] = {};
    for (int k = 0; k < linear.fours; k += 2, w += 8 * PANEL, a += 8) {
        const Int* v = (const Int*)w;
        for (int r = 0; r < R; r++) {
            const int32_t* at = (const int32_t*)(a + r * rows.width);
            Int x = Int{} + at[0], y = Int{} + at[1];
            sums[r][0] = dot(sums[r][0], x, v[0], y, v[2]);
            sums[r][1] = dot(sums[r][1], x, v[1], y, v[3]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < 2; v++) {
            int n = panel * PANEL + v * LANES;
            Float scale = load(linear.scale.data + n), shift = load(linear.shift.data + n);
            store(out + r * PANEL + v * LANES,
                  real(sums[r][v]) * (scale * rows.step.data[row + r]) + shift * rows.low.data[row + r]);
        }
}

// Calls f(count) with a count of 1 to MOST that is known when this is compiled.
template <int MOST, typename F>
inline void with(int count, F&& f) {
    if (count == MOST) f(std::integral_constant<int, MOST>());
    else if constexpr (MOST > 1) with<MOST - 1>(count, f);
}

// Within a parallel region: y[rows][outputs] = after(rows W + bias); ADD adds it to y.
void multiply(const Linear& linear, const Rows& x, int rows, float* y, After after) {
    int chunks = (rows + CHUNK - 1) / CHUNK;
    int grain = std::max(1, chunks * linear.panels / (8 * omp_get_num_threads()));
#pragma omp for collapse(2) schedule(dynamic, grain)
    for (int chunk = 0; chunk < chunks; chunk++)
        for (int panel = 0; panel < linear.panels; panel++) {
            alignas(64) float out[CHUNK * PANEL];
            int first = chunk * CHUNK, count = std::min(CHUNK, rows - first);
            const float* w = linear.weight.data + (size_t)panel * linear.inputs * PANEL;
            for (int r = 0; r < count; r += ROWS)
                with<ROWS>(std::min(ROWS, count - r), [&](auto n) {
                    const float* a = x.packed.data + (size_t)(first + r) * linear.inputs;
                    if (linear.integers) tile<n()>(x, first + r, linear, panel, out + r * PANEL);
                    else tile<n(), ROWS>(a, 1, w, linear.inputs, out + r * PANEL, PANEL);
                });
            int column = panel * PANEL, columns = std::min(PANEL, linear.outputs - column);
            for (int r = 0; r < count; r++) {
                float* to = y + (size_t)(first + r) * linear.outputs + column;
                alignas(64) float ready[PANEL];
                for (int v = 0; v < PANEL; v += LANES) {
                    Float value = load(out + r * PANEL + v) + load(linear.bias.data + column + v);
                    store(ready + v, after == ERF ? gelu_erf(value) : after == TANH ? gelu_tanh(value) : value);
                }
                if (after == ADD)
                    for (int c = 0; c < columns; c++) to[c] += ready[c];
                else
                    std::copy(ready, ready + columns, to);
            }
        }
}

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

    // One head of a sequence; keys and values are [heads][slots][width].
    void attend(const Sequence& sequence, int first, int head, float* keys, float* values) {
        int width = hidden / heads, tokens = sequence.tokens, before = sequence.before, all = before + tokens;
        size_t three = 3 * (size_t)hidden;
        const float* q = qkv.data + first * three + head * width;
        float* y = attended.data + (size_t)first * hidden + head * width;
        float scale = 1 / std::sqrt((float)width);
        auto at = [&](float* cache, int which, int j) {
            return cache ? cache + (head * slots + sequence.slots[j]) * width : (float*)q + which * hidden + j * three;
        };
        if (keys)
            for (int i = 0; i < tokens; i++) {
                const float* from = q + i * three;
                std::copy(from + hidden, from + hidden + width, at(keys, 1, before + i));
                std::copy(from + 2 * hidden, from + 2 * hidden + width, at(values, 2, before + i));
            }
        static thread_local Array<float> scores, across, along;
        int wide = (all + PANEL - 1) / PANEL * PANEL, broad = (width + PANEL - 1) / PANEL * PANEL;
        scores.grow((size_t)ROWS * wide);
        if (tokens <= FEW) {
            for (int i = 0; i < tokens; i++) {
                int seen = causal ? before + i + 1 : all;
                for (int j = 0; j < seen; j++) scores.data[j] = inner_product(q + i * three, at(keys, 1, j), width);
                softmax(scores.data, seen, seen, scale);
                float* to = y + (size_t)i * hidden;
                int d = 0;
                for (; d + LANES <= width; d += std::min(WIDE, (width - d) / LANES) * LANES)
                    with<WIDE>(std::min(WIDE, (width - d) / LANES), [&](auto n) {
                        Float sums[n()] = {};
                        for (int j = 0; j < seen; j++)
                            for (int v = 0; v < n(); v++)
                                sums[v] += scores.data[j] * load(at(values, 2, j) + d + v * LANES);
                        for (int v = 0; v < n(); v++) store(to + d + v * LANES, sums[v]);
                    });
                for (; d < width; d++) {
                    to[d] = 0;
                    for (int j = 0; j < seen; j++) to[d] += scores.data[j] * at(values, 2, j)[d];
                }
            }
            return;
        }
        across.grow((size_t)width * wide);
        along.grow((size_t)all * broad);
        for (int j = 0; j < all; j++) {
            const float *k = at(keys, 1, j), *v = at(values, 2, j);
            float* to = across.data + (size_t)(j / PANEL * width) * PANEL + j % PANEL;
            for (int d = 0; d < width; d++) to[(size_t)d * PANEL] = k[d];
            for (int d = 0; d < width; d += PANEL)
                std::copy(v + d, v + std::min(d + PANEL, width), along.data + (size_t)d * all + (size_t)j * PANEL);
        }
        alignas(64) float out[ROWS * PANEL];
        for (int i = 0; i < tokens; i += ROWS)
            with<ROWS>(std::min(ROWS, tokens - i), [&](auto n) {
                int seen = causal ? before + i + n() : all;
                for (int j = 0; j < seen; j += PANEL)
                    tile<n(), 1>(q + i * three, three, across.data + (size_t)j * width, width, scores.data + j, wide);
                for (int r = 0; r < n(); r++)
                    softmax(scores.data + r * wide, causal ? before + i + r + 1 : all, seen, scale);
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

    // Of the first `seen` of `count`, rounded up to whole vectors; the rest become 0, or as good as that.
    static void softmax(float* x, int seen, int count, float scale) {
        count = (count + LANES - 1) / LANES * LANES;
        std::fill(x + seen, x + count, -INFINITY);
        Float top = load(x), total{};
        for (int j = LANES; j < count; j += LANES) top = most(top, load(x + j));
        float largest = top[0];
        for (int lane = 1; lane < LANES; lane++) largest = std::max(largest, top[lane]);
        for (int j = 0; j < count; j += LANES) {
            Float e = power((load(x + j) - largest) * scale);
            store(x + j, e);
            total += e;
        }
        float inverse = 1 / sum(total);
        for (int j = 0; j < count; j += LANES) store(x + j, load(x + j) * inverse);
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
            if (!norm_first) settle(x, tokens, block.norm1);
            ready(x, tokens, hidden, norm_first ? &block.norm2 : nullptr, integers);
            multiply(block.up, rows, tokens, inner.data, gelu);
            ready(inner.data, tokens, ffn, nullptr, integers);
            multiply(block.down, rows, tokens, x, ADD);
            if (!norm_first) settle(x, tokens, block.norm2);
        }
    }

    void settle(float* x, int count, const Norm& norm) {
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
