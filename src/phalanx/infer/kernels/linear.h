// Linear layers whose weights are laid out once, in panels of outputs that a tile of rows is multiplied by.

#pragma once

#include <omp.h>

#include "vectors.h"

namespace {

constexpr int CHUNK = 96;  // rows of a task: a multiple of ROWS

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
            smallest = smaller(smallest, x), largest = larger(largest, x), odd += x - x;
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
                  to_float(sums[r][v]) * (scale * rows.step.data[row + r]) + shift * rows.low.data[row + r]);
        }
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
                dispatch<ROWS>(std::min(ROWS, count - r), [&](auto n) {
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

}  // namespace
