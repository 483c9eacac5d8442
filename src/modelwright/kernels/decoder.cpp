// One step of a transformer on a CPU, from token ids to logits, in one call.
//
// A step takes some tokens of some sequences: one each where they decode, a stretch of a prompt where they are
// read. Keys and values live in blocks of 32 positions that a table per sequence names (arXiv 2309.06180).
// Between two operations of a decoder lie microseconds of work for a small model; here that is a barrier among
// threads instead of a trip through Python.
//
// Words. A tile is what one step of a product takes of a matrix: 32 of the reduced axis (k) by 32 outputs
// (columns), as two halves of 16 columns. A strip is a matrix' 32 columns over all of k: its tiles, one behind
// the other, so that a product reads memory from end to end. Weights are strips, and so are blocks of keys
// (columns are positions) and of values (columns are dimensions of the head).
//
// Numbers. Mode F32 multiplies fp32; mode B16 multiplies bf16 with fp32 sums, on the matrix unit where there is one
// (AMX), and keeps everything between products in fp32, so that it is nearer to fp32 than a model that rounds in
// between. A row's result depends on nothing but the row: sums run over k in one order, whatever else is in the step.
// So a sequence gets the same bits alone or in a crowd, read at once, in pieces or token by token.
// model/transformer.py is the plain version that this is tested against.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include <omp.h>
#include <sched.h>

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#define WIDE_VECTORS 1  // the same operations by name, where compilers do not find them
#include <immintrin.h>
#endif
#if defined(WIDE_VECTORS) && defined(__AMX_BF16__) && defined(__linux__)
#define MATRIX_UNIT 1
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

constexpr int64_t TILE = 32;                    // of k, and of columns; positions in a block of the cache
constexpr int64_t HALF = 16;                    // columns that one vector holds
constexpr int64_t ELEMENTS = TILE * TILE;       // of a tile
constexpr int64_t ROWS = 32;                    // rows that one pass of a product takes

// INT8_FOURS is int8 for the matrix unit, whose tiles are 64 of k by 32 columns, neighbours in k four by four.
enum Kind : int64_t { FLOAT32, BFLOAT16, INT8, INT4, INT8_FOURS };
constexpr int64_t TILE_BYTES[] = {4 * ELEMENTS, 2 * ELEMENTS, ELEMENTS, ELEMENTS / 2, 2 * ELEMENTS};

using Floats = float __attribute__((vector_size(64)));
using Ints = int32_t __attribute__((vector_size(64)));
using Words = uint32_t __attribute__((vector_size(64)));
using Shorts = uint16_t __attribute__((vector_size(64)));
using Bytes = int8_t __attribute__((vector_size(16)));

inline int64_t tiles(int64_t size) { return (size + TILE - 1) / TILE; }
inline int64_t padded(int64_t size) { return tiles(size) * TILE; }

template <class V>
inline V at(const void* from) {
    V value;
    std::memcpy(&value, from, sizeof(V));
    return value;
}

template <class V>
inline void put(void* to, V value) {
    std::memcpy(to, &value, sizeof(V));
}

inline Floats all(float x) { return Floats{} + x; }
inline Floats as_floats(Words x) { return at<Floats>(&x); }

inline float widened(uint16_t x) {
    const uint32_t bits = uint32_t(x) << 16;
    return at<float>(&bits);
}

inline uint16_t narrowed(float x) {  // to nearest, ties to even; a NaN stays one
    const uint32_t bits = at<uint32_t>(&x);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return uint16_t((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

// 16 results as elements of a mode.
inline void put_as(float* to, Floats x) { put(to, x); }

inline void put_as(uint16_t* to, Floats x) {
#ifdef WIDE_VECTORS
    const __m256bh found = _mm512_cvtneps_pbh(at<__m512>(&x));
    std::memcpy(to, &found, sizeof(found));
#else
    for (int j = 0; j < 16; ++j) to[j] = narrowed(x[j]);
#endif
}

inline void put_one(float* to, float x) { *to = x; }
inline void put_one(uint16_t* to, float x) { *to = narrowed(x); }

inline void put_bytes(int8_t* to, Ints x) {
#ifdef WIDE_VECTORS
    const __m128i found = _mm512_cvtepi32_epi8(at<__m512i>(&x));
    std::memcpy(to, &found, sizeof(found));
#else
    for (int j = 0; j < 16; ++j) to[j] = int8_t(x[j]);
#endif
}

// Weights are read from end to end, but the processor's own look-ahead stops at every page and does not see what the
// matrix unit loads. So a product asks for what it will read some tiles later.
constexpr int64_t AHEAD = 8192;

inline void fetch_ahead(const void* from, int64_t bytes) {
    for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(static_cast<const char*>(from) + AHEAD + line);
}

inline float sum(Floats x) {  // in one fixed order
    float part[16];
    put(part, x);
    for (int width = 8; width; width /= 2)
        for (int i = 0; i < width; ++i) part[i] += part[i + width];
    return part[0];
}

// exp(x) for x <= 0 to about 2 units in the last place (the polynomial is that of Cephes' expf); 0 below -87.
inline Floats exponential(Floats x) {
    const Floats low = all(-87.f), clamped = x < low ? low : x;
    const Floats scaled = clamped * 1.44269504f;
    const Ints n = __builtin_convertvector(scaled - 0.5f, Ints);  // towards zero: rounds, as scaled <= 0
    const Floats whole = __builtin_convertvector(n, Floats);
    const Floats r = (clamped - whole * 0.693359375f) + whole * 2.12194440e-4f;  // minus n ln 2, in two parts
    Floats p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.f;
    const Ints power = (n + 127) << 23;
    const Floats found = p * at<Floats>(&power);
    return x < low ? Floats{} : found;
}

// ---- the two modes ---------------------------------------------------------------------------------------------

struct F32 {
    using Element = float;
    static float of(float x) { return x; }
    static float wide(float x) { return x; }
    // Where (k, column) of a tile lies.
    static int64_t place(int64_t k, int64_t column) { return (column / HALF) * 512 + k * HALF + column % HALF; }
};

struct B16 {
    using Element = uint16_t;
    static uint16_t of(float x) { return narrowed(x); }
    static float wide(uint16_t x) { return widened(x); }
    static int64_t place(int64_t k, int64_t column) {  // neighbours in k are pairs
        return (column / HALF) * 512 + (k / 2) * 32 + (column % HALF) * 2 + k % 2;
    }
};

// int8: as B16, but of each 16 pairs first all that are even in k, then all that are odd.
inline int64_t place_of_byte(int64_t k, int64_t column) {
    return (column / HALF) * 512 + (k / 2) * 32 + (k % 2) * HALF + column % HALF;
}

inline Floats from_bytes(const int8_t* from) {
#ifdef WIDE_VECTORS
    const __m512 found = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
    return at<Floats>(&found);
#endif
    return __builtin_convertvector(__builtin_convertvector(at<Bytes>(from), Ints), Floats);
}

__attribute__((noinline)) void unpack_bytes(const int8_t* from, float* to) {
    for (int64_t half = 0; half < 2; ++half)
        for (int64_t k = 0; k < TILE; ++k)
            put(to + half * 512 + k * HALF, from_bytes(from + half * 512 + k * HALF));
}

// A pair in k of 16 columns: integers up to 127 are exact in bf16, whose upper half is all of it.
inline Words pairs_of_bytes(const int8_t* from) {
    const Floats even = from_bytes(from), odd = from_bytes(from + HALF);
    return (at<Words>(&even) >> 16) | (at<Words>(&odd) & 0xffff0000u);
}

__attribute__((noinline)) void unpack_bytes(const int8_t* from, uint16_t* to) {
    for (int64_t row = 0; row < TILE; ++row) put(to + row * 32, pairs_of_bytes(from + row * 32));
}

// For each of 32 words the value that its five lowest bits name.
inline Shorts chosen(Shorts values, Shorts words) {
#ifdef WIDE_VECTORS
    const __m512i found = _mm512_permutexvar_epi16(at<__m512i>(&words), at<__m512i>(&values));
    return at<Shorts>(&found);
#else
    return __builtin_shuffle(values, words);
#endif
}

const Shorts LEVELS = {0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80,  // -8 to 7 in bf16,
                       0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0,
                       0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80,  // twice: the fifth bit
                       0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0};  // belongs to the next

// int4: a word of 16 bits holds the levels (0 to 15, standing for -8 to 7) of four neighbouring pairs in k.
__attribute__((noinline)) void unpack_nibbles(const uint16_t* from, uint16_t* to) {
    for (int64_t group = 0; group < 8; ++group) {
        Shorts word = at<Shorts>(from + group * 32);
        for (int64_t j = 0; j < 4; ++j, word >>= 4)
            put(to + (group * 4 + j) * 32, chosen(LEVELS, word));
    }
}

__attribute__((noinline)) void unpack_nibbles(const uint16_t* from, float* to) {
    uint16_t pairs[ELEMENTS];
    unpack_nibbles(from, pairs);
    for (int64_t half = 0; half < 2; ++half)
        for (int64_t k = 0; k < TILE; ++k)
            for (int64_t column = 0; column < HALF; ++column)
                to[half * 512 + k * HALF + column] = widened(pairs[half * 512 + (k / 2) * 32 + column * 2 + k % 2]);
}

// A tile of any kind as products take it: itself, or unpacked into `room`.
template <class E>
inline const E* tile_at(const void* data, int64_t number, Kind kind, E* room) {
    const char* from = static_cast<const char*>(data) + number * TILE_BYTES[kind];
    if (kind == INT8) return unpack_bytes(reinterpret_cast<const int8_t*>(from), room), room;
    if (kind == INT4) return unpack_nibbles(reinterpret_cast<const uint16_t*>(from), room), room;
    return reinterpret_cast<const E*>(from);
}

// The tiles of a strip one after the other. What has to be unpacked is so one tile ahead: the matrix unit cannot
// load what is still on its way to memory.
template <class E>
class Strip {
  public:
    Strip(const void* data, int64_t first, int64_t steps, Kind kind) : data_(data), first_(first), steps_(steps), kind_(kind) {}
    const E* operator()(int64_t step) {
        if (first_pass) fetch_ahead(static_cast<const char*>(data_) + (first_ + step) * TILE_BYTES[kind_], TILE_BYTES[kind_]);
        if (kind_ != INT8 && kind_ != INT4) return tile_at<E>(data_, first_ + step, kind_, nullptr);
        if (ready_ != step) tile_at<E>(data_, first_ + step, kind_, rooms_[step % 2]);
        if (step + 1 < steps_) tile_at<E>(data_, first_ + step + 1, kind_, rooms_[(step + 1) % 2]);
        ready_ = step + 1;
        return rooms_[step % 2];
    }
    bool first_pass = true;  // later ones find the strip in a cache

  private:
    alignas(64) E rooms_[2][ELEMENTS];
    const void* data_;
    const int64_t first_, steps_;
    const Kind kind_;
    int64_t ready_ = -1;
};

// ---- products --------------------------------------------------------------------------------------------------

bool matrix_unit = false;

// What one register holds of a tile's columns, and how many rows at a time leave room for their sums in the others.
#ifdef __AVX512F__
constexpr int64_t LANES = 16, GROUP = 8;
#else
constexpr int64_t LANES = 8, GROUP = 4;
#endif
using Part = float __attribute__((vector_size(4 * LANES)));
using PartWords = uint32_t __attribute__((vector_size(4 * LANES)));

// Adds to R rows of c what a tile gives: sums are made tile by tile, of even and odd k apart, and then added up, so
// that fewer roundings meet than in one long sum.
template <int R>
inline void add_tile(const float* a, int64_t stride, const float* b, float* c, int64_t line) {
    for (int64_t column = 0; column < TILE; column += LANES) {
        const float* from = b + F32::place(0, column);
        Part even[R] = {}, odd[R] = {};
        for (int64_t k = 0; k < TILE; k += 2) {
            const Part first = at<Part>(from + k * HALF), second = at<Part>(from + (k + 1) * HALF);
            for (int r = 0; r < R; ++r) {
                even[r] += a[r * stride + k] * first;
                odd[r] += a[r * stride + k + 1] * second;
            }
        }
        for (int r = 0; r < R; ++r) {
            float* to = c + r * line + column;
            put(to, at<Part>(to) + (even[r] + odd[r]));
        }
    }
}

#ifdef WIDE_VECTORS
// A pair of k is one operation here, which multiplies and adds as the matrix unit does.
template <int R>
inline void add_tile(const uint16_t* a, int64_t stride, const uint16_t* b, float* c, int64_t line) {
    __m512 sums[R][2];
    for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
    for (int64_t pair = 0; pair < HALF; ++pair) {
        const __m512bh left = at<__m512bh>(b + pair * 32), right = at<__m512bh>(b + 512 + pair * 32);
        for (int r = 0; r < R; ++r) {
            const __m512i x = _mm512_set1_epi32(at<int32_t>(a + r * stride + 2 * pair));
            sums[r][0] = _mm512_dpbf16_ps(sums[r][0], at<__m512bh>(&x), left);
            sums[r][1] = _mm512_dpbf16_ps(sums[r][1], at<__m512bh>(&x), right);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int64_t half = 0; half < 2; ++half) {
            float* to = c + r * line + half * HALF;
            put(to, at<Floats>(to) + at<Floats>(&sums[r][half]));
        }
}

constexpr int64_t FEW = 4;  // rows whose products take less time than a tile's way through memory

// Half a packed tile, pair by pair as `unpack_nibbles` and `unpack_bytes` write it: `use(pair, 16 columns of it)`.
template <class Use>
inline void each_pair(const uint16_t* from, Use use) {
    for (int64_t group = 0; group < 4; ++group) {
        Shorts word = at<Shorts>(from + group * 32);
        for (int64_t j = 0; j < 4; ++j, word >>= 4) use(group * 4 + j, chosen(LEVELS, word));
    }
}

template <class Use>
inline void each_pair(const int8_t* from, Use use) {
    for (int64_t pair = 0; pair < HALF; ++pair) use(pair, pairs_of_bytes(from + pair * 32));
}

// What `add_tile` gives of a packed tile, number by number, without unpacking it to memory.
template <int R, class Packed>
inline void add_packed(const uint16_t* a, int64_t stride, const Packed* from, Floats (&c)[R][2]) {
    for (int half = 0; half < 2; ++half, from += sizeof(Packed) == 1 ? 512 : 128) {
        __m512 sums[R];
        for (int r = 0; r < R; ++r) sums[r] = _mm512_setzero_ps();
        each_pair(from, [&](int64_t pair, auto right) {
            for (int r = 0; r < R; ++r) {
                const __m512i x = _mm512_set1_epi32(at<int32_t>(a + r * stride + 2 * pair));
                sums[r] = _mm512_dpbf16_ps(sums[r], at<__m512bh>(&x), at<__m512bh>(&right));
            }
        });
        for (int r = 0; r < R; ++r) c[r][half] = c[r][half] + at<Floats>(&sums[r]);
    }
}
#else
// The two of a pair in fp32.
inline Part lower(PartWords pairs) { return at<Part>(&(pairs <<= 16)); }
inline Part upper(PartWords pairs) { return at<Part>(&(pairs &= 0xffff0000u)); }

template <int R>
inline void add_tile(const uint16_t* a, int64_t stride, const uint16_t* b, float* c, int64_t line) {
    for (int64_t column = 0; column < TILE; column += LANES) {
        const uint16_t* from = b + B16::place(0, column);
        Part even[R] = {}, odd[R] = {};
        for (int64_t pair = 0; pair < HALF; ++pair) {
            const PartWords both = at<PartWords>(from + pair * 32);
            for (int r = 0; r < R; ++r) {
                const PartWords x = PartWords{} + at<uint32_t>(a + r * stride + 2 * pair);
                even[r] += lower(x) * lower(both);
                odd[r] += upper(x) * upper(both);
            }
        }
        for (int r = 0; r < R; ++r) {
            float* to = c + r * line + column;
            put(to, at<Part>(to) + (even[r] + odd[r]));
        }
    }
}
#endif

// A tile is read, and unpacked, once for all rows; how they are grouped changes no row's numbers.
template <class E, class Next>
inline void product_on_vectors(const E* a, int64_t stride, int64_t rows, Next& next, int64_t steps, float* c,
                               int64_t line) {
    for (int64_t r = 0; r < rows; ++r) std::memset(c + r * line, 0, TILE * sizeof(float));
    for (int64_t step = 0; step < steps; ++step, a += TILE) {
        const E* b = next(step);
        int64_t r = 0;
        for (; r + GROUP <= rows; r += GROUP) add_tile<GROUP>(a + r * stride, stride, b, c + r * line, line);
        if (r + 4 <= rows) add_tile<4>(a + r * stride, stride, b, c + r * line, line), r += 4;
        if (r + 2 <= rows) add_tile<2>(a + r * stride, stride, b, c + r * line, line), r += 2;
        if (r < rows) add_tile<1>(a + r * stride, stride, b, c + r * line, line);
    }
}

#ifdef MATRIX_UNIT

struct __attribute__((packed)) TileShapes {
    uint8_t palette = 1, start = 0, unused[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
};

thread_local int64_t shaped_for = 0;

// Tiles 0 to 3 are results, 4 and 5 rows of the left side, 6 and 7 the halves of a tile of the right side.
inline void shape_tiles(int64_t first, int64_t second) {
    if (first * 32 + second == shaped_for) return;
    shaped_for = first * 32 + second;
    TileShapes shapes;
    for (int i = 0; i < 8; ++i) shapes.bytes[i] = 64, shapes.rows[i] = 16;
    shapes.rows[0] = shapes.rows[1] = shapes.rows[4] = uint8_t(first);
    shapes.rows[2] = shapes.rows[3] = shapes.rows[5] = uint8_t(second);
    __asm__ volatile("" ::"m"(shapes) : "memory");  // the next call is not said to read all of it
    _tile_loadconfig(&shapes);
}

inline void release_tiles() {
    if (shaped_for) _tile_release();
    shaped_for = 0;
}

template <class Next>
void product_on_unit(const uint16_t* a, int64_t stride, int64_t rows, Next& next, int64_t steps, float* c,
                     int64_t line) {
    shape_tiles(std::min(rows, HALF), std::max<int64_t>(rows - HALF, 1));
    _tile_zero(0);
    _tile_zero(1);
    if (rows <= HALF) {
        for (int64_t step = 0; step < steps; ++step) {
            const uint16_t* b = next(step);
            _tile_loadd(4, a + step * TILE, stride * 2);
            _tile_loadd(6, b, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, b + 512, 64);
            _tile_dpbf16ps(1, 4, 7);
        }
    } else {
        _tile_zero(2);
        _tile_zero(3);
        for (int64_t step = 0; step < steps; ++step) {
            const uint16_t* b = next(step);
            _tile_loadd(6, b, 64);
            _tile_loadd(7, b + 512, 64);
            _tile_loadd(4, a + step * TILE, stride * 2);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_loadd(5, a + step * TILE + HALF * stride, stride * 2);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(2, c + HALF * line, line * 4);
        _tile_stored(3, c + HALF * line + HALF, line * 4);
    }
    _tile_stored(0, c, line * 4);
    _tile_stored(1, c + HALF, line * 4);
}

// The same for int8 weights. The left side has 15 bits: whole x scale = 128 x high + low, two rows of int8, so that
// it loses less than bf16 would; sums are whole numbers and exact. c = (128 x high + low) x scale. At most 16 rows.
inline void product_of_bytes(const int8_t* high, const int8_t* low, int64_t stride, int64_t rows, const float* scale,
                             const int8_t* strip, int64_t steps, bool first_pass, float* c) {
    alignas(64) int32_t sums[4][HALF * HALF];
    shape_tiles(rows, rows);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t step = 0; step < steps; ++step, strip += 2 * ELEMENTS) {
        if (first_pass) fetch_ahead(strip, 2 * ELEMENTS);
        _tile_loadd(4, high + step * 2 * TILE, stride);
        _tile_loadd(5, low + step * 2 * TILE, stride);
        _tile_loadd(6, strip, 64);
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(2, 5, 6);
        _tile_loadd(7, strip + ELEMENTS, 64);
        _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(3, 5, 7);
    }
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    _tile_stored(2, sums[2], 64);
    _tile_stored(3, sums[3], 64);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t half = 0; half < 2; ++half) {
            const Floats first = __builtin_convertvector(at<Ints>(sums[half] + r * HALF), Floats);
            const Floats second = __builtin_convertvector(at<Ints>(sums[2 + half] + r * HALF), Floats);
            put(c + r * TILE + half * HALF, (first * 128.f + second) * scale[r]);
        }
}

#else
inline void release_tiles() {}
inline void product_of_bytes(const int8_t*, const int8_t*, int64_t, int64_t, const float*, const int8_t*, int64_t,
                             bool, float*) {}
#endif

// A row as 15-bit whole numbers, 128 x high + low, of `scale` each: the largest is 127 x 128.
inline float split(const uint16_t* from, int64_t size, int8_t* high, int8_t* low) {
    Floats top{}, broken{};  // broken: zeros, unless the row holds what is no number or not finite
    for (int64_t k = 0; k < size; k += TILE) {
        const Words both = at<Words>(from + k);  // 16 pairs of bf16
        const Floats even = as_floats((both << 16) & 0x7fffffffu), odd = as_floats(both & 0x7fff0000u);
        broken += (even - even) + (odd - odd);
        top = even > top ? even : top;
        top = odd > top ? odd : top;
    }
    float largest = 0;
    for (int i = 0; i < 16; ++i) largest = std::max(largest, top[i]);
    const float scale = largest > 0 ? largest / 16256.f : 1.f, inverse = 1.f / scale;
    for (int64_t k = 0; k < size; k += HALF) {
        Floats x;
        for (int j = 0; j < 16; ++j) x[j] = widened(from[k + j]);
        const Floats whole = x * inverse, shifted = whole * (1.f / 128.f);
        const Floats half = all(0.5f);
        const Ints h = __builtin_convertvector(shifted < 0.f ? shifted - half : shifted + half, Ints);
        const Floats rest = whole - __builtin_convertvector(h, Floats) * 128.f;
        const Ints l = __builtin_convertvector(rest < 0.f ? rest - half : rest + half, Ints);
        put_bytes(high + k, h);
        put_bytes(low + k, l);
    }
    return scale + sum(broken);
}
inline float split(const float*, int64_t, int8_t*, int8_t*) { return 0.f; }

// c (rows, 32) = a (rows, k) times a strip, whose tiles `next` gives one after the other. The unit takes at most ROWS;
// rows of c are `line` apart.
template <class E, class Next>
inline void product(const E* a, int64_t stride, int64_t rows, Next&& next, int64_t steps, float* c, int64_t line = TILE) {
#ifdef MATRIX_UNIT
    if constexpr (sizeof(E) == 2)
        if (matrix_unit) return product_on_unit(a, stride, rows, next, steps, c, line);
#endif
    product_on_vectors(a, stride, rows, next, steps, c, line);
}

}  // namespace

// ---- what the caller describes (kernels/decoder.py holds the same structures) ------------------------------------

extern "C" {

// A (out, in) weight as strips. `scales`: INT8 (out), INT4 (strips, in / group, 32). `bias`: (out) or null.
struct Matrix {
    const void* data;
    const float *scales, *bias;
    int64_t out, in, group, kind;
};

// What a LoRA adapter adds to one matrix: (rank, in) and (out, rank), the second with alpha / rank in it. Matrices
// that share their input are one here too: ranks one under another. `down.data` null: nothing. `gain`: (out) or null,
// what DoRA multiplies the sum with, before the bias.
struct Adapter {
    Matrix down, up;
    const float* gain;
};

// One feed-forward network of a mixture.
struct Expert {
    Matrix gate_up, down;
};

struct Layer {
    const float *attention_norm, *feed_forward_norm, *query_norm, *key_norm;
    Matrix qkv, out, gate_up, down;  // gate_up: strips of 16 columns of the gate and the same 16 of the other
    const Adapter* adapters;  // for each adapter those of qkv, out, gate_up and down
    Matrix router;            // (experts, hidden) fp32; `data` null in a dense layer, and then the next is too
    const Expert* experts;    // instead of gate_up and down
};

struct Model {
    int64_t layers, hidden, heads, kv_heads, head_dim, inner, vocabulary;
    int64_t window;  // 0: none
    int64_t gelu;    // whether the gate is GELU, by its approximation with tanh, and not SiLU
    int64_t experts, asked, expert_inner, normalise;  // of mixtures: how many, how many a row asks, their width,
                                                      // whether weights are divided by their sum
    int64_t rank;  // the largest of all adapters, those that share an input added up; 0 without adapters
    float epsilon, embedding_scale;
    const Layer* layer;
    const void* embedding;  // (vocabulary, hidden) in the mode's elements; null: the columns of `head`
    const float* norm;
    Matrix head;
    const float *cosine, *sine;  // (positions, head_dim)
    void *keys, *values;         // (layers, blocks, kv_heads, padded head_dim x 32)
    float *key_scales, *value_scales;  // (layers, blocks, kv_heads, 32) where the cache is int8
    int64_t blocks, cache_kind;
};

struct Step {
    int64_t rows, sequences, outputs, table_width;
    const int64_t *ids, *positions;                  // (rows)
    const int64_t *first_row, *count, *adapter;      // (sequences); adapter -1: none
    const int32_t* tables;                           // (sequences, table_width) blocks
    const int64_t* output_rows;                      // (outputs) rows whose logits are wanted
    float *hidden, *logits;  // (rows, hidden) after the last norm or null; (outputs, vocabulary)
};

}  // extern "C"

namespace {

// Memory that a step works in; kept from step to step, since fresh pages cost more than a small model's layer.
class Arena {
  public:
    ~Arena() { std::free(memory_); }  // with its thread
    void reset() {
        if (wanted_ > size_) {
            std::free(memory_);
            size_ = wanted_ + wanted_ / 2;
            memory_ = static_cast<char*>(std::aligned_alloc(64, (size_ + 63) / 64 * 64));
            if (memory_ == nullptr) size_ = 0;  // the next step may want less
        }
        used_ = wanted_ = 0;
    }
    // Null until a first round has measured what is wanted.
    template <class V>
    V* take(int64_t count) {
        const int64_t bytes = (count * int64_t(sizeof(V)) + 63) / 64 * 64;
        wanted_ += bytes;
        if (used_ + bytes > size_) return nullptr;
        V* found = reinterpret_cast<V*>(memory_ + used_);
        used_ += bytes;
        return found;
    }
    bool enough() const { return memory_ != nullptr && wanted_ <= size_; }

  private:
    char* memory_ = nullptr;
    int64_t size_ = 0, used_ = 0, wanted_ = 0;
};

struct Range {
    int64_t first, end;
};

// Where threads wait for each other: for moments, so they spin, but soon let others have the processor. A thread of
// the team may be waiting for that very one.
class Barrier {
  public:
    explicit Barrier(int threads) : threads_(threads) {}
    void wait() {
        const int64_t round = round_.load(std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
            arrived_.store(0, std::memory_order_relaxed);
            round_.store(round + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins)
            if (spins > 4000) sched_yield();
            else pause();
    }

  private:
    static void pause() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
    const int threads_;
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<int64_t> round_{0};
};

inline Range share(int64_t count, int thread, int threads) {
    return {count * thread / threads, count * (thread + 1) / threads};
}

// Some rows of one sequence and one key/value head: at most 16 queries x heads of a group.
struct Task {
    int64_t sequence, head, first, count;
};

// What one thread works in besides.
template <class E>
struct Workspace {
    float* scores;     // 16 rows over all positions
    E* shares;         // the same
    int8_t *high, *low;  // rows in 15 bits
    float* scales;     // of these
    E* ranks;          // rows through the first half of their adapter
    int64_t *pairs, *begins;  // of a row and an expert that it asks, sorted by expert; where each expert's begin
};

enum Place { QKV, OUT, GATE_UP, DOWN, OTHER };

template <class Mode>
struct Forward {
    using E = typename Mode::Element;

    const Model& m;
    const Step& s;
    int threads;
    int64_t width, inner, mixed, group, head_size, task_count = 0, longest = 0;
    int64_t pair_count, expert_inner;
    float *x, *wide;
    E *narrow, *queries, *attended, *gated;
    float *normed, *said, *weights;  // mixtures: rows for the router, its logits, the weights of who is asked
    int64_t* chosen;                 // (rows, asked) experts, the most likely first
    E *spread, *gated_apart;         // pairs: rows for experts, and inside of these
    Task* tasks;
    Barrier barrier;
    std::atomic<int64_t> next_task{0};

    Forward(const Model& model, const Step& step, int team) : m(model), s(step), threads(team), barrier(team) {
        width = padded(m.hidden);
        group = m.heads / m.kv_heads;
        head_size = padded(m.head_dim);
        mixed = padded(m.heads * m.head_dim);
        inner = padded(m.inner);
        pair_count = s.rows * m.asked;
        expert_inner = padded(m.expert_inner);
        for (int64_t q = 0; q < s.sequences; ++q)
            longest = std::max(longest, s.positions[s.first_row[q] + s.count[q] - 1] + 1);
    }

    int64_t wide_columns() const { return padded((m.heads + 2 * m.kv_heads) * m.head_dim); }

    bool allocate(Arena& arena) {
        arena.reset();
        x = arena.take<float>(s.rows * m.hidden);
        wide = arena.take<float>(s.rows * wide_columns());
        narrow = arena.take<E>(s.rows * width);
        queries = arena.take<E>(s.rows * m.heads * head_size);
        attended = arena.take<E>(s.rows * mixed);
        gated = arena.take<E>(s.rows * inner);
        normed = arena.take<float>(m.experts ? s.rows * width : 0);
        said = arena.take<float>(s.rows * padded(m.experts));
        weights = arena.take<float>(pair_count);
        chosen = arena.take<int64_t>(pair_count);
        spread = arena.take<E>(pair_count * width);
        gated_apart = arena.take<E>(pair_count * expert_inner);
        tasks = arena.take<Task>(s.rows * m.kv_heads * (group / HALF + 1));
        return arena.enough();
    }

    bool workspace(Workspace<E>& mine, Arena& arena) const {
        arena.reset();
        const int64_t bytes = s.rows * (std::max({width, inner, mixed, expert_inner}) + TILE);  // rows of whole tiles of 64
        mine.scores = arena.take<float>(HALF * padded(longest));
        mine.shares = arena.take<E>(HALF * padded(longest));
        mine.high = arena.take<int8_t>(bytes);
        mine.low = arena.take<int8_t>(bytes);
        mine.scales = arena.take<float>(s.rows);
        mine.ranks = arena.take<E>(s.rows * padded(m.rank));
        mine.pairs = arena.take<int64_t>(pair_count);
        mine.begins = arena.take<int64_t>(m.experts + 1);
        return arena.enough();
    }

    // Queries of a sequence that share a pass: all heads of a group for as many positions as 16 rows hold.
    void plan_attention() {
        const int64_t positions = std::max<int64_t>(1, HALF / group);
        for (int64_t q = 0; q < s.sequences; ++q)
            for (int64_t h = 0; h < m.kv_heads; ++h)
                for (int64_t first = 0; first < s.count[q]; first += positions)
                    tasks[task_count++] = {q, h, first, std::min(positions, s.count[q] - first)};
    }

    // ---- rows

    void embed(int thread) {
        const Range part = share(s.rows, thread, threads);
        for (int64_t row = part.first; row < part.end; ++row) {
            float* to = x + row * m.hidden;
            const int64_t id = s.ids[row];
            if (m.embedding != nullptr) {
                const E* from = static_cast<const E*>(m.embedding) + id * m.hidden;
                for (int64_t k = 0; k < m.hidden; ++k) to[k] = Mode::wide(from[k]) * m.embedding_scale;
                continue;
            }
            const E* strip = static_cast<const E*>(m.head.data) + (id / TILE) * width * TILE;
            for (int64_t k = 0; k < m.hidden; ++k)
                to[k] = Mode::wide(strip[(k / TILE) * ELEMENTS + Mode::place(k % TILE, id % TILE)]) * m.embedding_scale;
        }
    }

    static float inverse_rms(const float* from, int64_t size, float epsilon) {
        Floats squares{};
        int64_t k = 0;
        for (; k + HALF <= size; k += HALF) {
            const Floats part = at<Floats>(from + k);
            squares += part * part;
        }
        float total = sum(squares);
        for (; k < size; ++k) total += from[k] * from[k];
        return 1.f / std::sqrt(total / float(size) + epsilon);
    }

    template <class To>
    void norm(const float* from, const float* weight, To* to) const {
        const float scale = inverse_rms(from, m.hidden, m.epsilon);
        int64_t k = 0;
        for (; k + HALF <= m.hidden; k += HALF) put_as(to + k, at<Floats>(from + k) * scale * at<Floats>(weight + k));
        for (; k < m.hidden; ++k) put_one(to + k, from[k] * scale * weight[k]);
        for (; k < width; ++k) to[k] = To{};
    }

    void norm_rows(const float* weight, int thread, bool for_router = false) {
        const Range part = share(s.rows, thread, threads);
        for (int64_t row = part.first; row < part.end; ++row) {
            norm(x + row * m.hidden, weight, narrow + row * width);
            if (for_router) norm(x + row * m.hidden, weight, normed + row * width);
        }
    }

    // ---- products with weights

    // For each strip of this thread and each pass of some rows, `done(first row, rows, strip, sums)`.
    template <class Done>
    void linear(Place place, const Layer* layer, const Matrix& w, const E* a, int64_t stride, int64_t rows,
                Workspace<E>& own, int thread, Done done) {
        const Kind kind = Kind(w.kind);
        const int64_t steps = kind == INT8_FOURS ? tiles(tiles(w.in) * TILE / 2) : tiles(w.in);
        const int64_t pass = kind == INT8_FOURS ? HALF : ROWS, wide_k = steps * 2 * TILE;
        const Range part = share(tiles(w.out), thread, threads);
        alignas(64) float sums[ROWS * TILE], piece[ROWS * TILE];
        if (part.first == part.end) return;
        if (kind == INT8_FOURS)
            for (int64_t row = 0; row < rows; ++row)
                own.scales[row] = split_row(a + row * stride, stride, wide_k, own, row);
        const bool adapted = m.rank && place != OTHER && through_adapters(place, *layer, a, stride, own);
        for (int64_t strip = part.first; strip < part.end; ++strip) {
            Strip<E> tile(w.data, strip * steps, steps, kind);
            for (int64_t first = 0; first < rows; first += pass) {
                const int64_t some = std::min(pass, rows - first);
                const E* left = a + first * stride;
                if (kind == INT8_FOURS)
                    product_of_bytes(own.high + first * wide_k, own.low + first * wide_k, wide_k, some, own.scales + first,
                                     static_cast<const int8_t*>(w.data) + strip * steps * TILE_BYTES[kind], steps, first == 0,
                                     sums);
                else if (made_for_few(w, left, stride, some, strip, steps, first == 0, sums)) {}
                else if (kind == INT4) product_in_groups(w, left, stride, some, strip, steps, tile, piece, sums);
                else product<E, Strip<E>&>(left, stride, some, tile, steps, sums);
                tile.first_pass = false;
                if (kind == INT8 || kind == INT8_FOURS) scale_columns(w.scales + strip * TILE, some, sums);
                if (adapted) add_adapters(place, *layer, first, some, strip, own, sums);
                if (w.bias != nullptr) add_to_rows(w.bias + strip * TILE, some, sums);
                done(first, some, strip, sums);
            }
        }
    }

    static float split_row(const E* from, int64_t size, int64_t wide_k, Workspace<E>& own, int64_t row) {
        int8_t *high = own.high + row * wide_k, *low = own.low + row * wide_k;
        for (int64_t k = size; k < wide_k; ++k) high[k] = low[k] = 0;
        return split(from, size, high, low);
    }

    // ---- adapters: each row of its own, so that others change nothing

    const Adapter* adapter_of(Place place, const Layer& layer, int64_t row) const {
        const int64_t number = s.adapter[sequence_of(row)];
        const Adapter* found = number < 0 ? nullptr : layer.adapters + number * 4 + place;
        return found == nullptr || found->down.data == nullptr ? nullptr : found;
    }

    // Every thread does this for itself: the ranks are few. Returns whether any row has an adapter.
    bool through_adapters(Place place, const Layer& layer, const E* a, int64_t stride, Workspace<E>& own) {
        bool any = false;
        alignas(64) float sums[TILE];
        for (int64_t row = 0; row < s.rows; ++row) {
            const Adapter* adapter = adapter_of(place, layer, row);
            if (adapter == nullptr) continue;
            any = true;
            const int64_t steps = tiles(adapter->down.in);
            for (int64_t strip = 0; strip < tiles(adapter->down.out); ++strip) {
                Strip<E> tile(adapter->down.data, strip * steps, steps, Kind(adapter->down.kind));
                product<E, Strip<E>&>(a + row * stride, stride, 1, tile, steps, sums);
                E* to = own.ranks + row * padded(m.rank) + strip * TILE;
                put_as(to, at<Floats>(sums)), put_as(to + HALF, at<Floats>(sums + HALF));
            }
        }
        return any;
    }

    void add_adapters(Place place, const Layer& layer, int64_t first, int64_t rows, int64_t strip, Workspace<E>& own,
                      float* sums) {
        alignas(64) float added[TILE];
        for (int64_t r = 0; r < rows; ++r) {
            const Adapter* adapter = adapter_of(place, layer, first + r);
            if (adapter == nullptr) continue;
            const int64_t steps = tiles(adapter->up.in);
            Strip<E> tile(adapter->up.data, strip * steps, steps, Kind(adapter->up.kind));
            product<E, Strip<E>&>(own.ranks + (first + r) * padded(m.rank), 0, 1, tile, steps, added);
            for (int64_t j = 0; j < TILE; ++j) sums[r * TILE + j] += added[j];
            if (adapter->gain != nullptr) scale_columns(adapter->gain + strip * TILE, 1, sums + r * TILE);
        }
    }

#ifdef WIDE_VECTORS
    // As `product` and `product_in_groups`, for few rows and packed weights.
    template <int R, class Packed>
    static void product_of_few(const Matrix& w, const uint16_t* a, int64_t stride, int64_t strip, int64_t steps,
                               bool first_pass, float* sums) {
        constexpr bool in_groups = sizeof(Packed) == 2;
        const int64_t stretch = in_groups ? w.group / TILE : steps, groups = (steps + stretch - 1) / stretch;
        const int64_t bytes = TILE_BYTES[in_groups ? INT4 : INT8];
        const char* from = static_cast<const char*>(w.data) + strip * steps * bytes;
        const float* scale = w.scales + strip * groups * TILE;
        Floats total[R][2] = {};
        for (int64_t first = 0; first < steps; first += stretch, scale += TILE) {
            Floats piece[R][2] = {};
            for (int64_t step = first; step < std::min(first + stretch, steps); ++step, from += bytes) {
                if (first_pass) fetch_ahead(from, bytes);
                add_packed<R>(a + step * TILE, stride, reinterpret_cast<const Packed*>(from), piece);
            }
            for (int r = 0; r < R; ++r)
                for (int half = 0; half < 2; ++half) {
                    if (in_groups) total[r][half] = total[r][half] + piece[r][half] * at<Floats>(scale + half * HALF);
                    else total[r][half] = piece[r][half];
                }
        }
        std::memcpy(sums, total, sizeof(total));
    }

    template <class Packed>
    static constexpr decltype(&product_of_few<1, Packed>) OF_FEW[FEW] = {
        product_of_few<1, Packed>, product_of_few<2, Packed>, product_of_few<3, Packed>, product_of_few<4, Packed>};
#endif

    // Makes the product where rows are few and weights packed, on processors where these go without unpacking; whether
    // it did.
    static bool made_for_few(const Matrix& w, const E* a, int64_t stride, int64_t rows, int64_t strip, int64_t steps,
                          bool first_pass, float* sums) {
#ifdef WIDE_VECTORS
        if constexpr (sizeof(E) == 2) {
            const auto way = w.kind == INT8 ? OF_FEW<int8_t> : w.kind == INT4 ? OF_FEW<uint16_t> : nullptr;
            if (way == nullptr || matrix_unit || rows > FEW) return false;
            way[rows - 1](w, a, stride, strip, steps, first_pass, sums);
            return true;
        }
#endif
        return false;
    }

    template <class Next>
    static void product_in_groups(const Matrix& w, const E* a, int64_t stride, int64_t rows, int64_t strip,
                                  int64_t steps, Next& tile, float* piece, float* sums) {
        const int64_t stretch = w.group / TILE, groups = (steps + stretch - 1) / stretch;
        std::memset(sums, 0, size_t(rows * TILE) * sizeof(float));
        for (int64_t g = 0; g < groups; ++g) {
            const int64_t from = g * stretch, some = std::min(stretch, steps - from);
            product(a + from * TILE, stride, rows, [&](int64_t step) { return tile(from + step); }, some, piece);
            const float* scale = w.scales + (strip * groups + g) * TILE;
            const Floats left = at<Floats>(scale), right = at<Floats>(scale + HALF);
            for (int64_t r = 0; r < rows; ++r) {
                float* to = sums + r * TILE;
                put(to, at<Floats>(to) + at<Floats>(piece + r * TILE) * left);
                put(to + HALF, at<Floats>(to + HALF) + at<Floats>(piece + r * TILE + HALF) * right);
            }
        }
    }

    static void scale_columns(const float* scale, int64_t rows, float* sums) {
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t j = 0; j < TILE; ++j) sums[r * TILE + j] *= scale[j];
    }

    static void add_to_rows(const float* bias, int64_t rows, float* sums) {
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t j = 0; j < TILE; ++j) sums[r * TILE + j] += bias[j];
    }

    // ---- attention

    int64_t sequence_of(int64_t row) const {
        const int64_t* end = std::upper_bound(s.first_row, s.first_row + s.sequences, row);
        return end - s.first_row - 1;
    }

    // Queries, keys and values of a row's heads: normalised, rotated, and put where attention reads them.
    void spread_heads(int64_t l, int thread) {
        const Layer& layer = m.layer[l];
        const int64_t heads = m.heads + 2 * m.kv_heads;
        const Range part = share(s.rows * heads, thread, threads);
        for (int64_t i = part.first; i < part.end; ++i) {
            const int64_t row = i / heads, head = i % heads, q = sequence_of(row);
            const int64_t position = s.positions[row], within = row - s.first_row[q];
            float* from = wide + row * wide_columns() + head * m.head_dim;
            if (head < m.heads + m.kv_heads) {
                const float* weight = head < m.heads ? layer.query_norm : layer.key_norm;
                if (weight != nullptr) {
                    const float scale = inverse_rms(from, m.head_dim, m.epsilon);
                    for (int64_t j = 0; j < m.head_dim; ++j) from[j] = from[j] * scale * weight[j];
                }
                rotate(from, position);
            }
            if (head < m.heads) {
                const int64_t kv = head / group, g = head % group;
                const int64_t place = s.first_row[q] * m.heads + kv * s.count[q] * group + within * group + g;
                E* to = queries + place * head_size;
                for (int64_t j = 0; j < head_size; ++j) to[j] = j < m.head_dim ? Mode::of(from[j]) : E{};
                continue;
            }
            const bool key = head < m.heads + m.kv_heads;
            const int64_t kv = (head - m.heads) % m.kv_heads;
            const int64_t block = s.tables[q * s.table_width + position / TILE];
            store(key, cache_index(l, block, kv), position % TILE, from);
        }
    }

    void rotate(float* v, int64_t position) const {
        const float *c = m.cosine + position * m.head_dim, *n = m.sine + position * m.head_dim;
        const int64_t half = m.head_dim / 2;
        for (int64_t j = 0; j < half; ++j) {
            const float first = v[j], second = v[half + j];
            v[j] = first * c[j] - second * n[j];
            v[half + j] = second * c[half + j] + first * n[half + j];
        }
    }

    int64_t cache_index(int64_t l, int64_t block, int64_t kv) const {
        return (l * m.blocks + block) * m.kv_heads + kv;
    }

    // A head's key or value into its block. Tiles of keys follow each other over the head's dimensions (k), tiles of
    // values over strips of 32 of them (columns).
    void store(bool key, int64_t index, int64_t slot, const float* from) {
        void* base = key ? m.keys : m.values;
        if (m.cache_kind != INT8) {
            E* to = static_cast<E*>(base) + index * head_size * TILE;
            for (int64_t j = 0; j < m.head_dim; ++j)
                to[(j / TILE) * ELEMENTS + (key ? Mode::place(j % TILE, slot) : Mode::place(slot, j % TILE))] =
                    Mode::of(from[j]);
            return;
        }
        int8_t* to = static_cast<int8_t*>(base) + index * head_size * TILE;
        float largest = 0, broken = 0;  // broken: 0, unless there is what is no number or not finite
        for (int64_t j = 0; j < m.head_dim; ++j) {
            largest = std::max(largest, std::fabs(from[j]));
            broken += from[j] - from[j];
        }
        const float scale = largest > 0 ? largest / 127.f : 1.f;
        (key ? m.key_scales : m.value_scales)[index * TILE + slot] = scale + broken;  // a level cannot say it
        for (int64_t j = 0; j < m.head_dim; ++j) {
            const int64_t place = key ? place_of_byte(j % TILE, slot) : place_of_byte(slot, j % TILE);
            to[(j / TILE) * ELEMENTS + place] = broken == 0 ? int8_t(std::rint(from[j] / scale)) : int8_t(0);
        }
    }

    // `scores` and `shares` hold 16 rows over all positions.
    void attend(int64_t l, const Task& task, float* scores, E* shares) {
        const int64_t start = s.first_row[task.sequence], rows = task.count * group;
        const int64_t position = s.positions[start + task.first];  // of the first query
        const int64_t last = position + task.count;                // the end of what any may see
        const int64_t from = m.window ? std::max<int64_t>(0, position - m.window + 1) / TILE : 0;
        const int64_t blocks = tiles(last) - from, stride = blocks * TILE;
        const int32_t* table = s.tables + task.sequence * s.table_width + from;
        const E* q = queries + (start * m.heads + (task.head * s.count[task.sequence] + task.first) * group) * head_size;
        const Kind kind = Kind(m.cache_kind);
        alignas(64) float sums[HALF * TILE];
        alignas(64) E room[ELEMENTS];
        const int64_t steps = head_size / TILE;
        for (int64_t done = 0; done < rows; done += HALF) {  // more than one pass only for groups above 16
            const int64_t some = std::min(HALF, rows - done);
            for (int64_t b = 0; b < blocks; ++b) {
                const int64_t index = cache_index(l, table[b], task.head);
                auto key = [&](int64_t step) { return tile_at<E>(m.keys, index * steps + step, kind, room); };
                product(q + done * head_size, head_size, some, key, steps, scores + b * TILE, stride);
            }
            float inverse[HALF];
            for (int64_t r = 0; r < some; ++r) {
                const int64_t seen = position + (done + r) / group + 1;  // the end of what this row sees
                const int64_t hidden = m.window ? std::max<int64_t>(0, seen - m.window) - from * TILE : 0;
                inverse[r] = softmax(scores + r * stride, shares + r * stride, std::max<int64_t>(0, hidden),
                                     seen - from * TILE, blocks, l, table, task.head);
            }
            for (int64_t strip = 0; strip < steps; ++strip) {
                auto value = [&](int64_t step) {
                    const int64_t index = cache_index(l, table[step], task.head);
                    return tile_at<E>(m.values, index * steps + strip, kind, room);
                };
                product(shares, stride, some, value, blocks, sums);
                const int64_t columns = std::min(TILE, m.head_dim - strip * TILE);
                for (int64_t r = 0; r < some; ++r) {
                    const int64_t row = start + task.first + (done + r) / group;
                    const int64_t head = task.head * group + (done + r) % group;
                    E* to = attended + row * mixed + head * m.head_dim + strip * TILE;
                    int64_t j = 0;
                    for (; j + HALF <= columns; j += HALF) put_as(to + j, at<Floats>(sums + r * TILE + j) * inverse[r]);
                    for (; j < columns; ++j) to[j] = Mode::of(sums[r * TILE + j] * inverse[r]);
                }
            }
        }
    }

    // exp(scale x scores - largest) over the positions first to end, 0 elsewhere; returns 1 / their sum. Vectors are
    // always those of a block, so that sums do not depend on where a row begins or ends. With an int8 cache scores
    // take the scales of their keys, and shares those of the values they are for.
    float softmax(float* scores, E* shares, int64_t first, int64_t end, int64_t blocks, int64_t l,
                  const int32_t* table, int64_t kv) const {
        const bool bytes = m.cache_kind == INT8;
        const Floats scale = all(1.f / std::sqrt(float(m.head_dim))), nothing = all(-INFINITY);
        Floats top = nothing;
        for (int64_t b = 0; b < blocks; ++b)
            for (int64_t half = 0; half < TILE; half += HALF) {
                const int64_t j = b * TILE + half;
                Floats part = at<Floats>(scores + j) * scale;
                if (bytes) part *= at<Floats>(m.key_scales + cache_index(l, table[b], kv) * TILE + half);
                if (j < first || j + HALF > end) part = within(first - j, end - j) ? part : nothing;
                put(scores + j, part);
                top = part > top ? part : top;
            }
        float largest = -INFINITY;
        for (int i = 0; i < 16; ++i) largest = std::max(largest, top[i]);
        Floats total{};
        for (int64_t b = 0; b < blocks; ++b)
            for (int64_t half = 0; half < TILE; half += HALF) {
                const int64_t j = b * TILE + half;
                Floats part = exponential(at<Floats>(scores + j) - largest);
                total += part;
                if (bytes) part *= at<Floats>(m.value_scales + cache_index(l, table[b], kv) * TILE + half);
                put_as(shares + j, part);
            }
        return 1.f / sum(total);
    }

    // Which of 16 lanes lie between the two.
    static Ints within(int64_t first, int64_t end) {
        const Ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        const Ints from = Ints{} + int32_t(std::max<int64_t>(first, 0)), to = Ints{} + int32_t(std::min<int64_t>(end, 16));
        return (lane >= from) & (lane < to);
    }

    // ---- the whole

    void add_to_stream(int64_t first, int64_t rows, int64_t strip, const float* sums) {
        const int64_t columns = std::min(TILE, m.hidden - strip * TILE);
        for (int64_t r = 0; r < rows; ++r) {
            float* to = x + (first + r) * m.hidden + strip * TILE;
            for (int64_t j = 0; j < columns; ++j) to[j] += sums[r * TILE + j];
        }
    }

    // silu(gate) x up of a strip's 16 columns each, silu(x) being x sigmoid(x); gelu(x) is about x sigmoid(1.6 (x +
    // 0.045 x^3)) (arXiv 1606.08415).
    void gate(E* to, int64_t line, int64_t first, int64_t rows, int64_t strip, const float* sums) {
        for (int64_t r = 0; r < rows; ++r) {
            const Floats g = at<Floats>(sums + r * TILE), up = at<Floats>(sums + r * TILE + HALF);
            const Floats x = m.gelu ? (g + g * g * g * 0.044715f) * 1.59576912f : g;
            const Floats size = x < 0.f ? x : -x, e = exponential(size);  // of -|x|: nothing overflows
            const Floats sigmoid = (x < 0.f ? e : all(1.f)) / (e + 1.f), found = g * sigmoid * up;
            put_as(to + (first + r) * line + strip * HALF, found);
        }
    }

    void feed_forward(const Layer& layer, Workspace<E>& own, int thread) {
        if (layer.experts != nullptr) return mix(layer, own, thread);
        linear(GATE_UP, &layer, layer.gate_up, narrow, width, s.rows, own, thread,
               [&](auto... found) { gate(gated, inner, found...); });
        barrier.wait();
        linear(DOWN, &layer, layer.down, gated, inner, s.rows, own, thread, [&](auto... found) { add_to_stream(found...); });
    }

    // ---- mixtures of experts: each reads its rows together, so that its weights are read once

    void mix(const Layer& layer, Workspace<E>& own, int thread) {
        ask_router(layer, thread);
        barrier.wait();
        const Range rows = share(s.rows, thread, threads);
        for (int64_t row = rows.first; row < rows.end; ++row) choose(row);
        barrier.wait();
        sort_pairs(own);
        const Range part = share(pair_count, thread, threads);
        for (int64_t i = part.first; i < part.end; ++i)
            std::memcpy(spread + i * width, narrow + own.pairs[i] / m.asked * width, size_t(width) * sizeof(E));
        barrier.wait();
        through_experts(layer, &Expert::gate_up, spread, width, own, thread,
                        [&](auto... found) { gate(gated_apart, expert_inner, found...); });
        barrier.wait();
        // Each row's experts come in their order, whoever else is here: a strip has one thread.
        through_experts(layer, &Expert::down, gated_apart, expert_inner, own, thread,
                        [&](int64_t first, int64_t count, int64_t strip, float* sums) {
                            for (int64_t r = 0; r < count; ++r) {
                                const int64_t pair = own.pairs[first + r];
                                for (int64_t j = 0; j < TILE; ++j) sums[r * TILE + j] *= weights[pair];
                                add_to_stream(pair / m.asked, 1, strip, sums + r * TILE);
                            }
                        });
    }

    // What the router says of every row, in fp32 whatever the mode.
    void ask_router(const Layer& layer, int thread) {
        const int64_t steps = tiles(m.hidden);
        const Range part = share(tiles(m.experts), thread, threads);
        for (int64_t strip = part.first; strip < part.end; ++strip) {
            Strip<float> tile(layer.router.data, strip * steps, steps, FLOAT32);
            product<float, Strip<float>&>(normed, width, s.rows, tile, steps, said + strip * TILE, padded(m.experts));
        }
    }

    // The experts a row asks: those of the largest logits, of equal ones the first, weighted by their probability.
    void choose(int64_t row) {
        const float* logits = said + row * padded(m.experts);
        int64_t* mine = chosen + row * m.asked;
        for (int64_t e = 0; e < m.experts; ++e) {  // whatever the logits are, no expert is asked twice
            int64_t at = std::min(e, m.asked);
            if (at == m.asked && !(logits[e] > logits[mine[--at]])) continue;
            for (; at > 0 && logits[e] > logits[mine[at - 1]]; --at) mine[at] = mine[at - 1];
            mine[at] = e;
        }
        float all_experts = 0, asked = 0;
        for (int64_t e = 0; e < m.experts; ++e) all_experts += std::exp(logits[e] - logits[mine[0]]);
        for (int64_t j = 0; j < m.asked; ++j) {
            weights[row * m.asked + j] = std::exp(logits[mine[j]] - logits[mine[0]]) / all_experts;
            asked += weights[row * m.asked + j];
        }
        if (m.normalise)
            for (int64_t j = 0; j < m.asked; ++j) weights[row * m.asked + j] /= asked;
    }

    // Every thread does this for itself. Of one expert, pairs keep the order of their rows.
    void sort_pairs(Workspace<E>& own) const {
        std::fill(own.begins, own.begins + m.experts + 1, 0);
        for (int64_t i = 0; i < pair_count; ++i) ++own.begins[chosen[i]];
        for (int64_t e = 0; e < m.experts; ++e) own.begins[e + 1] += own.begins[e];  // the ends, for now
        for (int64_t i = pair_count; i-- > 0;) own.pairs[--own.begins[chosen[i]]] = i;
    }

    template <class Done>
    void through_experts(const Layer& layer, Matrix Expert::*matrix, const E* from, int64_t line, Workspace<E>& own,
                         int thread, Done done) {
        for (int64_t e = 0; e < m.experts; ++e) {
            const int64_t begin = own.begins[e], count = own.begins[e + 1] - begin;
            if (count == 0) continue;
            linear(OTHER, nullptr, layer.experts[e].*matrix, from + begin * line, line, count, own, thread,
                   [&](int64_t first, int64_t rows, int64_t strip, float* sums) { done(begin + first, rows, strip, sums); });
        }
    }

    void run(int thread, Workspace<E>& own) {
        embed(thread);
        barrier.wait();
        for (int64_t l = 0; l < m.layers; ++l) {
            const Layer& layer = m.layer[l];
            norm_rows(layer.attention_norm, thread);
            barrier.wait();
            linear(QKV, &layer, layer.qkv, narrow, width, s.rows, own, thread,
                   [&](int64_t first, int64_t rows, int64_t strip, const float* sums) {
                       for (int64_t r = 0; r < rows; ++r)
                           std::memcpy(wide + (first + r) * wide_columns() + strip * TILE, sums + r * TILE,
                                       TILE * sizeof(float));
                   });
            barrier.wait();
            spread_heads(l, thread);
            barrier.wait();
            // Tasks are of unequal length: whoever is free takes the next.
            for (int64_t i; (i = next_task.fetch_add(1)) < task_count * (l + 1) + l * threads;)
                attend(l, tasks[i - (task_count + threads) * l], own.scores, own.shares);
            barrier.wait();
            linear(OUT, &layer, layer.out, attended, mixed, s.rows, own, thread, [&](auto... found) { add_to_stream(found...); });
            barrier.wait();
            norm_rows(layer.feed_forward_norm, thread, layer.experts != nullptr);
            barrier.wait();
            feed_forward(layer, own, thread);
            barrier.wait();
        }
        finish(own, thread);
        release_tiles();
    }

    // The last norm, for all rows where they are asked for, and the logits of some.
    void finish(Workspace<E>& own, int thread) {
        const Range part = share(s.rows, thread, threads);
        if (s.hidden != nullptr)
            for (int64_t row = part.first; row < part.end; ++row) {
                const float scale = inverse_rms(x + row * m.hidden, m.hidden, m.epsilon);
                for (int64_t k = 0; k < m.hidden; ++k)
                    s.hidden[row * m.hidden + k] = x[row * m.hidden + k] * scale * m.norm[k];
            }
        const Range outputs = share(s.outputs, thread, threads);
        for (int64_t i = outputs.first; i < outputs.end; ++i)
            norm(x + s.output_rows[i] * m.hidden, m.norm, narrow + i * width);
        barrier.wait();
        linear(OTHER, nullptr, m.head, narrow, width, s.outputs, own, thread,
               [&](int64_t first, int64_t rows, int64_t strip, const float* sums) {
                   const int64_t columns = std::min(TILE, m.vocabulary - strip * TILE);
                   for (int64_t r = 0; r < rows; ++r)
                       std::memcpy(s.logits + (first + r) * m.vocabulary + strip * TILE, sums + r * TILE,
                                   size_t(columns) * sizeof(float));
               });
    }
};

thread_local Arena arena, own;

template <class Mode>
bool forward(const Model& model, const Step& step, int threads) {
    using E = typename Mode::Element;
    Forward<Mode> work(model, step, threads);
    if (!work.allocate(arena) && !work.allocate(arena)) return false;
    // Columns behind the last of a matrix are multiplied by zeros: whatever is there must be a number.
    std::memset(static_cast<void*>(work.attended), 0, size_t(step.rows * work.mixed) * sizeof(E));
    std::memset(static_cast<void*>(work.gated), 0, size_t(step.rows * work.inner) * sizeof(E));
    std::memset(static_cast<void*>(work.gated_apart), 0, size_t(work.pair_count * work.expert_inner) * sizeof(E));
    work.plan_attention();
    std::atomic<bool> good{true};
#pragma omp parallel num_threads(threads)
    {
        Workspace<E> mine{};
        if (!work.workspace(mine, own) && !work.workspace(mine, own)) good = false;
        if (omp_get_num_threads() != threads) good = false;
#pragma omp barrier
        if (good) work.run(omp_get_thread_num(), mine);
    }
    return good;
}

}  // namespace

extern "C" {

// Asks the system for the matrix unit, for this process, where it is `wanted`. Returns whether bf16 goes through it.
int prepare(int wanted) {
#ifdef MATRIX_UNIT
    constexpr int ASK = 0x1023, TILE_DATA = 18;  // arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
    matrix_unit = wanted && syscall(SYS_arch_prctl, ASK, TILE_DATA) == 0;
#else
    (void)wanted;
#endif
    return matrix_unit;
}

// Whether `prepare` found one.
int has_unit() { return matrix_unit; }

// Returns 0 where memory or threads could not be had.
int step(const Model* model, const Step* what, int narrow, int threads) {
    return narrow ? forward<B16>(*model, *what, threads) : forward<F32>(*model, *what, threads);
}

}  // extern "C"
