// Vectors of the processor's own width, what is computed lane by lane, and memory that suits them.

#pragma once

#include <immintrin.h>
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <type_traits>

namespace {

#ifdef __AVX512F__
constexpr int LANES = 16, ROWS = 12;
#else
constexpr int LANES = 8, ROWS = 6;
#endif
constexpr int PANEL = 2 * LANES;  // outputs that are computed together

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
inline Float to_float(Int x) { return __builtin_convertvector(x, Float); }
inline Float smaller(Float a, Float b) { return a < b ? a : b; }
inline Float larger(Float a, Float b) { return a > b ? a : b; }

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
inline Float exponential(Float x) {
    x = smaller(Float{} + 88.0f, larger(Float{} - 87.0f, x));  // in this order what is no number stays none
    Float halves = x * 1.44269504f + (x < 0 ? Float{} - 0.5f : Float{} + 0.5f);
    Int twos = __builtin_convertvector(halves, Int);
    Float rest = x - to_float(twos) * 0.693359375f + to_float(twos) * 2.12194440e-4f;
    Float p = Float{} + 1.9875691500e-4f;
    for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        p = p * rest + c;
    Int bits = (twos + 127) << 23;
    return (p * rest * rest + rest + 1.0f) * (Float)bits;
}

inline Float gelu_tanh(Float x) {
    Float inner = 0.7978845608f * (x + 0.044715f * x * x * x);
    return x / (1.0f + exponential(-2.0f * inner));
}

// By Abramowitz and Stegun 7.1.26, whose erf is off by 1.5e-7 at most.
inline Float gelu_erf(Float x) {
    Float z = x * 0.70710678f, positive = z < 0 ? -z : z;
    Float t = 1.0f / (1.0f + 0.3275911f * positive);
    Float p = Float{} + 1.061405429f;
    for (float c : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f}) p = p * t + c;
    Float half = 0.5f * p * t * exponential(-z * z);  // (1 - erf |z|) / 2
    return x * (z < 0 ? half : 1.0f - half);
}

// Calls f(count) with a count of 1 to MOST that is known when this is compiled.
template <int MOST, typename F>
inline void dispatch(int count, F&& f) {
    if (count == MOST) f(std::integral_constant<int, MOST>());
    else if constexpr (MOST > 1) dispatch<MOST - 1>(count, f);
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

}  // namespace
