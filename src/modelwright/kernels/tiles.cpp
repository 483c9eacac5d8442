// For CPUs that multiply pairs of bf16 (AVX512-BF16) or whole tiles of them (Intel AMX): attention, and matrices that
// are turned around before a product.
//
// Attention goes the way of FlashAttention-2 (arXiv 2307.08691), without the (T, T) scores in memory: the forward
// pass keeps one number for each query, the log of its softmax's denominator, and the backward pass makes the
// probabilities again from it. Blocks of 32 queries x 32 keys in which nothing may be attended to are never computed,
// which is most of them where short documents are packed. Scores and sums are fp32; probabilities and the gradients
// of scores are rounded to bf16 for the products they go into. A key/value head is done by one thread, in a fixed
// order: the result does not depend on the threads.
//
// Products go through the matrix unit where there is one, and else pair by pair through vectors; nothing else differs.
//
// Words used here. A tile is 16 rows x 32 bf16, what one load of the matrix unit takes. A panel is 32 rows of a
// matrix, as pairs of tiles, one pair for each 32 of the reduced axis. `product` multiplies a left panel by a right
// one, 32 x 32 results at a time. Tiles of a right panel are stored as the unit wants them: pairs of neighbours
// along the reduced axis, by column. kernels/attention.py has the plain version that this one is tested against.

#include <cmath>
#include <cstdint>

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)

#include <immintrin.h>
#if defined(__AMX_BF16__) && defined(__linux__)
#define MATRIX_UNIT 1
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

namespace {

using bf16 = uint16_t;

constexpr int64_t PANEL = 32;           // rows of a panel, and what one tile holds of the reduced axis
constexpr int64_t TILE = 16 * 32;       // elements of a tile
constexpr int64_t PAIR = 2 * TILE;      // the two tiles of a panel for one step of the reduced axis
constexpr int64_t BLOCK = PANEL * PANEL;
constexpr int64_t AT_HAND = 1 << 18;    // probabilities held at a time in the backward pass: they stay in the L2 cache

inline int64_t panels(int64_t size) { return (size + PANEL - 1) / PANEL; }

// A (rows, depth) matrix in memory.
struct Matrix {
    const bf16* data;
    int64_t rows, depth;
    int64_t row, column;  // strides: one of them is 1

    Matrix transposed() const { return {data, depth, rows, column, row}; }
};

// Batch, head and position strides of a (B, H, T, head) tensor whose last axis is dense.
struct Strides {
    int64_t batch, head, position;
    int64_t at(int64_t b, int64_t h) const { return b * batch + h * head; }
};

// ---- packing ---------------------------------------------------------------------------------------------------

// 16 x 16 words of 32 bits change rows and columns.
inline void transpose(__m512i r[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; ++i) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

inline __m512i neighbours(const bf16* first, const bf16* second) {
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(first)));
    const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(second)));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

enum Side { LEFT, RIGHT };

// 16 rows x 32 of the reduced axis of a matrix that has them all, as the given side of a product takes them.
inline void pack_tile(const Matrix& m, Side side, bf16* tile) {
    __m512i r[16];
    const bool by_row = m.column == 1;
    for (int64_t i = 0; i < 16; ++i)
        r[i] = by_row ? _mm512_loadu_si512(m.data + i * m.row)
                      : neighbours(m.data + 2 * i * m.column, m.data + (2 * i + 1) * m.column);
    if (by_row == (side == RIGHT)) transpose(r);
    for (int64_t i = 0; i < 16; ++i) _mm512_store_si512(tile + i * 32, r[i]);
}

// The same at the edges, where the rest is zero.
void pack_part(const Matrix& m, Side side, bf16* tile) {
    bf16 whole[TILE] = {};
    const int64_t rows = std::min<int64_t>(m.rows, 16), depth = std::min(m.depth, PANEL);
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t k = 0; k < depth; ++k) whole[i * 32 + k] = m.data[i * m.row + k * m.column];
    pack_tile({whole, 16, PANEL, 32, 1}, side, tile);
}

// All panels of a matrix, one behind the other: panels(rows) x panels(depth) pairs of tiles.
void pack(const Matrix& m, Side side, bf16* out) {
    for (int64_t i = 0; i < PANEL * panels(m.rows); i += PANEL)
        for (int64_t k = 0; k < m.depth; k += PANEL)
            for (int64_t half = i; half < i + PANEL; half += 16, out += TILE) {
                const Matrix rest{m.data + half * m.row + k * m.column, m.rows - half, m.depth - k, m.row, m.column};
                if (rest.rows <= 0) std::memset(out, 0, TILE * sizeof(bf16));
                else if (rest.rows >= 16 && rest.depth >= PANEL) pack_tile(rest, side, out);
                else pack_part(rest, side, out);
            }
}

// ---- products --------------------------------------------------------------------------------------------------

bool matrix_unit = false;

// R rows of the product below: a pair of each row meets 16 columns of the right panel in one operation. With 8 rows
// there are 16 sums, enough for none to wait for the one before it.
template <int R>
inline void some_rows(const bf16* left, const bf16* right, int64_t steps, float* c, bool add) {
    __m512 sums[R][2];
    for (int r = 0; r < R; ++r)
        for (int half = 0; half < 2; ++half)
            sums[r][half] = add ? _mm512_load_ps(c + r * PANEL + half * 16) : _mm512_setzero_ps();
    for (; steps > 0; --steps, left += PAIR, right += PAIR)
        for (int64_t pair = 0; pair < 16; ++pair) {
            const __m512bh low = (__m512bh)_mm512_load_si512(right + pair * 32);
            const __m512bh high = (__m512bh)_mm512_load_si512(right + TILE + pair * 32);
            for (int r = 0; r < R; ++r) {
                int32_t both;
                std::memcpy(&both, left + r * 32 + 2 * pair, sizeof(both));
                const __m512bh x = (__m512bh)_mm512_set1_epi32(both);
                sums[r][0] = _mm512_dpbf16_ps(sums[r][0], x, low);
                sums[r][1] = _mm512_dpbf16_ps(sums[r][1], x, high);
            }
        }
    for (int r = 0; r < R; ++r)
        for (int half = 0; half < 2; ++half) _mm512_store_ps(c + r * PANEL + half * 16, sums[r][half]);
}

inline void product_on_vectors(const bf16* left, const bf16* right, int64_t steps, float* c, bool add) {
    constexpr int GROUP = 8;
    for (int64_t row = 0; row < PANEL; row += GROUP)
        some_rows<GROUP>(left + (row / 16) * TILE + (row % 16) * 32, right, steps, c + row * PANEL, add);
}

#ifdef MATRIX_UNIT

struct __attribute__((packed)) TileShapes {
    uint8_t palette = 1, start = 0, unused[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
};

void use_tiles() {
    if (!matrix_unit) return;
    TileShapes shapes;
    for (int i = 0; i < 8; ++i) shapes.bytes[i] = 64, shapes.rows[i] = 16;
    __asm__ volatile("" ::"m"(shapes) : "memory");  // the next call is not said to read all of it
    _tile_loadconfig(&shapes);
}

void release_tiles() {
    if (matrix_unit) _tile_release();
}

inline void product_on_unit(const bf16* left, const bf16* right, int64_t steps, float* c, bool add) {
    __asm__ volatile("" ::: "memory");  // loads of tiles are not said to read memory
    if (add) {
        _tile_loadd(0, c, 128);
        _tile_loadd(1, c + 16, 128);
        _tile_loadd(2, c + 512, 128);
        _tile_loadd(3, c + 528, 128);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (; steps > 0; --steps, left += PAIR, right += PAIR) {
        _tile_loadd(4, left, 64);
        _tile_loadd(6, right, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, left + TILE, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_loadd(7, right + TILE, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, 128);
    _tile_stored(1, c + 16, 128);
    _tile_stored(2, c + 512, 128);
    _tile_stored(3, c + 528, 128);
}

#else

void use_tiles() {}
void release_tiles() {}

#endif

// c (32 x 32, fp32) = or += the product of a left and a right panel over `steps` pairs of tiles.
inline void product(const bf16* left, const bf16* right, int64_t steps, float* c, bool add = false) {
#ifdef MATRIX_UNIT
    if (matrix_unit) return product_on_unit(left, right, steps, c, add);
#endif
    product_on_vectors(left, right, steps, c, add);
}

// Rows of a 32 x 32 block as bf16, as many of them as there are.
inline void put(const float* c, bf16* out, int64_t stride, int64_t rows) {
    for (int64_t i = 0; i < std::min(rows, PANEL); ++i, c += PANEL)
        _mm512_storeu_si512(out + i * stride, (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(c + 16), _mm512_loadu_ps(c)));
}

// ---- one block of scores ---------------------------------------------------------------------------------------

inline float wide(bf16 x) {
    const uint32_t bits = uint32_t(x) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline __m512 wide(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }

// exp, 0 below -87 (which -inf is), of numbers up to 88: 2 units in the last place (the polynomial of Cephes' expf).
inline __m512 exponential(__m512 x) {
    const __mmask16 seen = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.f), _CMP_NLT_UQ);  // NaN is seen
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    p = _mm512_fmadd_ps(_mm512_mul_ps(p, r), r, _mm512_add_ps(r, _mm512_set1_ps(1.f)));
    return _mm512_maskz_scalef_ps(seen, p, n);
}

// The panels of keys that a panel of queries reaches: [first, end).
struct Reach {
    int64_t first, end;
};

// Which keys a query may attend to, and what is added to their scores.
struct Mask {
    const bf16* bias;  // (T, T) of one sequence, or null: causal
    const Reach* reaches;  // of each panel of queries, as `find_reach` has them, or null: causal
    int64_t size;

    Reach reach(int64_t panel) const { return reaches == nullptr ? Reach{0, panel + 1} : reaches[panel]; }

    // What is added to the scores of 16 keys from `key` on; -inf for those that are hidden or do not exist.
    __m512 added(int64_t query, int64_t key) const {
        const int64_t left = (bias == nullptr ? query + 1 : size) - key;
        const __mmask16 there = left >= 16 ? 0xffff : left <= 0 ? 0 : (1u << left) - 1;
        const __m512 hidden = _mm512_set1_ps(-INFINITY);
        if (bias == nullptr) return _mm512_mask_mov_ps(hidden, there, _mm512_setzero_ps());
        const __m256i bits = _mm256_maskz_loadu_epi16(there, bias + query * size + key);
        return _mm512_mask_mov_ps(hidden, there, wide(bits));
    }

};

// A reach takes in what one row of a bias lets through.
void widen(Reach& reach, const bf16* row, int64_t size) {
    const auto lets_through = [&](int64_t panel) {
        const int64_t left = size - panel * PANEL;
        const __mmask32 there = left >= PANEL ? ~0u : (1u << left) - 1;
        const __m512i bits = _mm512_maskz_loadu_epi16(there, row + panel * PANEL);
        return _mm512_mask_cmpneq_epu16_mask(there, bits, _mm512_set1_epi16(int16_t(0xff80))) != 0;  // -inf
    };
    for (int64_t j = 0; j < reach.first; ++j)
        if (lets_through(j)) reach.first = j;
    for (int64_t j = panels(size); j > reach.end; --j)
        if (lets_through(j - 1)) reach.end = j;
}

// From the first panel of keys that one of a panel of queries may attend to up to the last.
Reach find_reach(const bf16* bias, int64_t size, int64_t panel) {
    Reach found{panels(size), 0};
    for (int64_t query = panel * PANEL; query < std::min(size, (panel + 1) * PANEL); ++query)
        widen(found, bias + query * size, size);
    return found.first < found.end ? found : Reach{0, 0};
}

// Scores of a panel of queries (blocks of 32 x 32, one for each panel of keys) become probabilities, in the form of
// a left panel; the logs of the denominators are written down.
void softmax(const float* scores, const Mask& mask, int64_t query, Reach keys, float scale, bf16* p, float* logs) {
    const __m512 factor = _mm512_set1_ps(scale);
    std::vector<float> row(PANEL * (keys.end - keys.first));
    for (int64_t i = 0; i < PANEL; ++i) {
        const bool exists = query + i < mask.size;
        __m512 top = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
        float* at = row.data();
        for (int64_t j = keys.first; j < keys.end && exists; ++j)
            for (int64_t half = 0; half < PANEL; half += 16, at += 16) {
                const __m512 score = _mm512_loadu_ps(scores + (j - keys.first) * BLOCK + i * PANEL + half);
                const __m512 x = _mm512_fmadd_ps(score, factor, mask.added(query + i, j * PANEL + half));
                _mm512_storeu_ps(at, x);
                top = _mm512_max_ps(top, x);
            }
        const float most = _mm512_reduce_max_ps(top), highest = most == -INFINITY ? 0.f : most;
        at = row.data();
        for (int64_t j = 0; j < int64_t(row.size()) && exists; j += 16) {
            const __m512 e = exponential(_mm512_sub_ps(_mm512_loadu_ps(at + j), _mm512_set1_ps(highest)));
            _mm512_storeu_ps(at + j, e);
            sum = _mm512_add_ps(sum, e);
        }
        const float total = _mm512_reduce_add_ps(sum);
        const bool blind = total == 0.f;  // a query that may attend to nothing gets nothing
        const __m512 share = _mm512_set1_ps(blind ? 0.f : 1.f / total);
        bf16* out = p + (i / 16) * TILE + (i % 16) * 32;
        for (int64_t j = keys.first; j < keys.end; ++j, at += PANEL, out += PAIR) {
            const __m512 low = _mm512_mul_ps(_mm512_loadu_ps(at), share);
            const __m512 high = _mm512_mul_ps(_mm512_loadu_ps(at + 16), share);
            _mm512_store_si512(out, exists ? (__m512i)_mm512_cvtne2ps_pbh(high, low) : _mm512_setzero_si512());
        }
        if (exists) logs[query + i] = blind ? 0.f : highest + std::log(total);
    }
}

// The probabilities of a block made again, and the gradient of its scores, both (32, 32) bf16.
void differentiate(const float* scores, const float* slopes, const Mask& mask, int64_t query, int64_t key, float scale,
                   const float* logs, const float* dots, bf16* p, bf16* d) {
    for (int64_t i = 0; i < PANEL; ++i, p += PANEL, d += PANEL) {
        if (query + i >= mask.size) {
            std::memset(p, 0, PANEL * sizeof(bf16)), std::memset(d, 0, PANEL * sizeof(bf16));
            continue;
        }
        __m512 share[2], slope[2];
        for (int64_t half = 0; half < 2; ++half) {
            const int64_t at = i * PANEL + half * 16;
            const __m512 added = _mm512_sub_ps(mask.added(query + i, key + half * 16), _mm512_set1_ps(logs[query + i]));
            share[half] = exponential(_mm512_fmadd_ps(_mm512_loadu_ps(scores + at), _mm512_set1_ps(scale), added));
            const __m512 away = _mm512_sub_ps(_mm512_loadu_ps(slopes + at), _mm512_set1_ps(dots[query + i]));
            slope[half] = _mm512_mul_ps(_mm512_mul_ps(share[half], away), _mm512_set1_ps(scale));
        }
        _mm512_store_si512(p, (__m512i)_mm512_cvtne2ps_pbh(share[1], share[0]));
        _mm512_store_si512(d, (__m512i)_mm512_cvtne2ps_pbh(slope[1], slope[0]));
    }
}

// ---- one key/value head ----------------------------------------------------------------------------------------

// Room for numbers, on whole cache lines and not cleared.
template <class E>
class Room {
  public:
    explicit Room(int64_t size) : bytes_(new char[size * sizeof(E) + 64]) {}
    E* get() { return reinterpret_cast<E*>((reinterpret_cast<uintptr_t>(bytes_.get()) + 63) & ~uintptr_t(63)); }

  private:
    std::unique_ptr<char[]> bytes_;
};

struct Shape {
    int64_t heads, kv_heads, length, head;
    float scale;

    int64_t group() const { return heads / kv_heads; }
    Matrix rows(const bf16* data, const Strides& s) const { return {data, length, head, s.position, 1}; }
};

struct Forward {
    const Shape& s;
    const int64_t steps, blocks;
    Room<bf16> keys, values, query, p;
    Room<float> scores, mixed;

    explicit Forward(const Shape& shape)
        : s(shape), steps(panels(shape.head)), blocks(panels(shape.length)), keys(blocks * steps * PAIR),
          values(blocks * steps * PAIR), query(steps * PAIR), p(blocks * PAIR), scores(blocks * BLOCK), mixed(BLOCK) {}

    void run(const Mask& mask, const bf16* q, const Strides& qs, const Matrix& k, const Matrix& v, bf16* out,
             const Strides& os, float* logs) {
        pack(k, RIGHT, keys.get());
        pack(v.transposed(), RIGHT, values.get());
        for (int64_t h = 0; h < s.group(); ++h)
            for (int64_t i = 0; i < blocks; ++i) {
                const int64_t at = i * PANEL, left = std::min(PANEL, s.length - at);
                const Reach seen = mask.reach(i);
                pack({q + h * qs.head + at * qs.position, left, s.head, qs.position, 1}, LEFT, query.get());
                for (int64_t j = seen.first; j < seen.end; ++j)
                    product(query.get(), keys.get() + j * steps * PAIR, steps, scores.get() + (j - seen.first) * BLOCK);
                softmax(scores.get(), mask, at, seen, s.scale, p.get(), logs + h * s.length);
                for (int64_t x = 0; x < steps; ++x) {
                    product(p.get(), values.get() + (x * blocks + seen.first) * PAIR, seen.end - seen.first, mixed.get());
                    put(mixed.get(), out + h * os.head + at * os.position + x * PANEL, os.position, left);
                }
            }
    }
};

// sum over the head of out * d_out for each query: what the softmax's gradient subtracts.
void row_dots(const Shape& s, const bf16* out, const Strides& os, const bf16* slope, const Strides& gs, float* dots) {
    for (int64_t i = 0; i < s.length; ++i) {
        __m512 sum = _mm512_setzero_ps();
        for (int64_t d = 0; d < s.head; d += 16) {
            const auto* a = reinterpret_cast<const __m256i*>(out + i * os.position + d);
            const auto* b = reinterpret_cast<const __m256i*>(slope + i * gs.position + d);
            sum = _mm512_fmadd_ps(wide(_mm256_loadu_si256(a)), wide(_mm256_loadu_si256(b)), sum);
        }
        dots[i] = _mm512_reduce_add_ps(sum);
    }
}

struct Backward {
    const Shape& s;
    const int64_t steps, blocks, together;  // so many panels of queries are done together
    Room<bf16> keys, values, keys_by_head, query, slope, query_by_head, slope_by_head, p, d, d_left, p_turned, d_turned;
    Room<float> scores, slopes, mixed, d_keys, d_values, dots;
    std::vector<Reach> by_key;  // of the panels of queries that are done together, those that reach a panel of keys

    explicit Backward(const Shape& shape)
        : s(shape), steps(panels(shape.head)), blocks(panels(shape.length)),
          together(std::clamp<int64_t>(AT_HAND / (BLOCK * blocks), 1, blocks)),
          keys(blocks * steps * PAIR), values(blocks * steps * PAIR), keys_by_head(blocks * steps * PAIR),
          query(steps * PAIR), slope(steps * PAIR), query_by_head(together * steps * PAIR),
          slope_by_head(together * steps * PAIR), p(BLOCK), d(BLOCK), d_left(blocks * PAIR),
          p_turned(blocks * together * PAIR), d_turned(blocks * together * PAIR), scores(BLOCK), slopes(BLOCK), mixed(BLOCK),
          d_keys(blocks * steps * BLOCK), d_values(blocks * steps * BLOCK), dots(shape.length), by_key(blocks) {}

    void run(const Mask& mask, const bf16* q, const Strides& qs, const Matrix& k, const Matrix& v, const bf16* out, const Strides& os,
             const bf16* g, const Strides& gs, const float* logs, bf16* dq, const Strides& dqs, bf16* dk,
             const Strides& dks, bf16* dv, const Strides& dvs) {
        pack(k, RIGHT, keys.get());
        pack(v, RIGHT, values.get());
        pack(k.transposed(), RIGHT, keys_by_head.get());
        std::memset(d_keys.get(), 0, blocks * steps * BLOCK * sizeof(float));
        std::memset(d_values.get(), 0, blocks * steps * BLOCK * sizeof(float));
        for (int64_t h = 0; h < s.group(); ++h) {
            row_dots(s, out + h * os.head, os, g + h * gs.head, gs, dots.get());
            for (int64_t i = 0; i < blocks; i += together)
                some_queries(mask, i, std::min(together, blocks - i), s.rows(q + h * qs.head, qs),
                             s.rows(g + h * gs.head, gs), logs + h * s.length, dq + h * dqs.head, dqs.position);
        }
        for (int64_t j = 0; j < blocks; ++j)
            for (int64_t x = 0; x < steps; ++x) {
                const int64_t at = (j * steps + x) * BLOCK, key = j * PANEL;
                put(d_keys.get() + at, dk + key * dks.position + x * PANEL, dks.position, s.length - key);
                put(d_values.get() + at, dv + key * dvs.position + x * PANEL, dvs.position, s.length - key);
            }
    }

    // What `count` panels of queries from panel `from` on give: their own gradients, and their part of the keys' and
    // values'.
    void some_queries(const Mask& mask, int64_t from, int64_t count, const Matrix& q, const Matrix& g, const float* logs,
                      bf16* dq, int64_t dq_stride) {
        const int64_t begin = from * PANEL, rows = std::min(count * PANEL, s.length - begin);
        pack(Matrix{q.data + begin * q.row, rows, s.head, q.row, 1}.transposed(), RIGHT, query_by_head.get());
        pack(Matrix{g.data + begin * g.row, rows, s.head, g.row, 1}.transposed(), RIGHT, slope_by_head.get());
        std::fill(by_key.begin(), by_key.end(), Reach{0, 0});
        for (int64_t i = 0; i < count; ++i) {
            const int64_t at = begin + i * PANEL, left = std::min(PANEL, s.length - at);
            pack({q.data + at * q.row, left, s.head, q.row, 1}, LEFT, query.get());
            pack({g.data + at * g.row, left, s.head, g.row, 1}, LEFT, slope.get());
            const Reach seen = mask.reach(from + i);
            for (int64_t j = seen.first; j < seen.end; ++j) block(mask, i, at, j, j - seen.first, logs);
            for (int64_t x = 0; x < steps; ++x) {
                product(d_left.get(), keys_by_head.get() + (x * blocks + seen.first) * PAIR, seen.end - seen.first, mixed.get());
                put(mixed.get(), dq + at * dq_stride + x * PANEL, dq_stride, left);
            }
        }
        const int64_t queries = panels(rows);
        for (int64_t j = 0; j < blocks; ++j)
            for (int64_t x = 0; x < steps; ++x) {
                const Reach by = by_key[j];
                const int64_t turned = (j * together + by.first) * PAIR, right = (x * queries + by.first) * PAIR;
                const int64_t at = (j * steps + x) * BLOCK, width = by.end - by.first;
                if (width == 0) continue;
                product(d_turned.get() + turned, query_by_head.get() + right, width, d_keys.get() + at, true);
                product(p_turned.get() + turned, slope_by_head.get() + right, width, d_values.get() + at, true);
            }
    }

    // The block of query panel i of those (from position `at` on) and key panel j, the n-th that it reaches.
    void block(const Mask& mask, int64_t i, int64_t at, int64_t j, int64_t n, const float* logs) {
        product(query.get(), keys.get() + j * steps * PAIR, steps, scores.get());
        product(slope.get(), values.get() + j * steps * PAIR, steps, slopes.get());
        differentiate(scores.get(), slopes.get(), mask, at, j * PANEL, s.scale, logs, dots.get(), p.get(), d.get());
        pack({d.get(), PANEL, PANEL, PANEL, 1}, LEFT, d_left.get() + n * PAIR);
        Reach& by = by_key[j];
        if (by.first == by.end) by = {i, i};
        for (; by.end < i; ++by.end) {  // panels between that do not reach these keys
            std::memset(p_turned.get() + (j * together + by.end) * PAIR, 0, PAIR * sizeof(bf16));
            std::memset(d_turned.get() + (j * together + by.end) * PAIR, 0, PAIR * sizeof(bf16));
        }
        by.end = i + 1;
        pack(Matrix{p.get(), PANEL, PANEL, PANEL, 1}.transposed(), LEFT, p_turned.get() + (j * together + i) * PAIR);
        pack(Matrix{d.get(), PANEL, PANEL, PANEL, 1}.transposed(), LEFT, d_turned.get() + (j * together + i) * PAIR);
    }
};

// ---- turning a matrix ------------------------------------------------------------------------------------------

inline void put_row(__m512i row, bf16* out, bool) { _mm512_storeu_si512(out, row); }

inline void put_row(__m512i row, float* out, bool add) {
    for (int64_t half = 0; half < 2; ++half, out += 16) {
        const __m512 x = wide(half ? _mm512_extracti64x4_epi64(row, 1) : _mm512_castsi512_si256(row));
        _mm512_storeu_ps(out, add ? _mm512_add_ps(x, _mm512_loadu_ps(out)) : x);
    }
}

inline void put_one(bf16 x, bf16* out, bool) { *out = x; }
inline void put_one(bf16 x, float* out, bool add) { *out = add ? *out + wide(x) : wide(x); }

// (rows, columns) dense bf16 -> (columns, rows), written or added.
template <class E>
void turn(const bf16* in, E* out, int64_t rows, int64_t columns, bool add, int threads) {
    constexpr int64_t DEEP = 128, WIDE = 64;  // 16 KiB: read once, whole cache lines at a time
    const int64_t whole_rows = rows - rows % PANEL, whole_columns = columns - columns % 16;
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
    for (int64_t i0 = 0; i0 < whole_rows; i0 += DEEP)
        for (int64_t j0 = 0; j0 < whole_columns; j0 += WIDE)
            for (int64_t j = j0; j < std::min(j0 + WIDE, whole_columns); j += 16)
                for (int64_t i = i0; i < std::min(i0 + DEEP, whole_rows); i += PANEL) {
                    __m512i r[16];
                    const bf16* from = in + i * columns + j;
                    for (int64_t k = 0; k < 16; ++k) r[k] = neighbours(from + 2 * k * columns, from + (2 * k + 1) * columns);
                    transpose(r);
                    for (int64_t k = 0; k < 16; ++k) put_row(r[k], out + (j + k) * rows + i, add);
                }
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = i < whole_rows ? whole_columns : 0; j < columns; ++j)
            put_one(in[i * columns + j], out + j * rows + i, add);
}

Strides strides_of(const int64_t* strides, int number) {
    return {strides[3 * number], strides[3 * number + 1], strides[3 * number + 2]};
}

Mask mask_of(const bf16* biases, const int64_t* reaches, int64_t number, int64_t size) {
    if (biases == nullptr) return {nullptr, nullptr, size};
    return {biases + number * size * size, reinterpret_cast<const Reach*>(reaches) + number * panels(size), size};
}

}  // namespace

extern "C" {

// Asks the system for the matrix unit, for this process, where it is `wanted`. Returns whether this processor can do
// any of this, with the unit or without.
int prepare(int wanted) {
#ifdef MATRIX_UNIT
    constexpr int REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    matrix_unit = wanted && syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
#else
    (void)wanted;
#endif
    return __builtin_cpu_supports("avx512bf16") != 0;
}

// Whether `prepare` found a matrix unit: products go through vectors without one.
int has_unit() { return matrix_unit; }

// out (columns, rows) = the transpose of in (rows, columns).
void turned(const uint16_t* in, uint16_t* out, int64_t rows, int64_t columns, int threads) {
    turn(in, out, rows, columns, false, threads);
}

// The same in fp32, written or added.
void turned_wide(const uint16_t* in, float* out, int64_t rows, int64_t columns, int64_t add, int threads) {
    turn(in, out, rows, columns, add != 0, threads);
}

// The reaches of every panel of queries under each of so many masks (length, length): out (masks, panels, 2). All heads
// and the backward pass share them: each would read the mask from end to end, which took longer than all else where
// short documents are packed into rows of thousands of tokens.
void reaches(const uint16_t* biases, int64_t* out, int64_t masks, int64_t length, int threads) {
    const int64_t count = panels(length);
    Reach* found = reinterpret_cast<Reach*>(out);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t unit = 0; unit < masks * count; ++unit)
        found[unit] = find_reach(biases + unit / count * length * length, length, unit % count);
}

// out, logs = attention of q over k and v. `strides` has (batch, head, position) of q, k, v and out. The bias of batch
// row b is number b * apart, and so are its reaches; without one, attention is causal.
void attention(const uint16_t* q, const uint16_t* k, const uint16_t* v, const uint16_t* bias, const int64_t* reaches,
               uint16_t* out, float* logs,
               const int64_t* strides, int64_t batch, int64_t heads, int64_t kv_heads, int64_t length, int64_t head,
               int64_t apart, float scale, int threads) {
    const Shape shape{heads, kv_heads, length, head, scale};
    const Strides qs = strides_of(strides, 0), ks = strides_of(strides, 1), vs = strides_of(strides, 2), os = strides_of(strides, 3);
#pragma omp parallel num_threads(threads)
    {
        use_tiles();
        Forward forward(shape);
#pragma omp for schedule(dynamic)
        for (int64_t unit = 0; unit < batch * kv_heads; ++unit) {
            const int64_t b = unit / kv_heads, g = unit % kv_heads, h = g * shape.group();
            const Mask mask = mask_of(bias, reaches, b * apart, length);
            forward.run(mask, q + qs.at(b, h), qs, shape.rows(k + ks.at(b, g), ks), shape.rows(v + vs.at(b, g), vs),
                        out + os.at(b, h), os, logs + (b * heads + h) * length);
        }
        release_tiles();
    }
}

// Gradients; `strides` has those of q, k, v, out, d_out, d_q, d_k and d_v.
void attention_backward(const uint16_t* q, const uint16_t* k, const uint16_t* v, const uint16_t* bias,
                        const int64_t* reaches, const uint16_t* out, const float* logs, const uint16_t* d_out, uint16_t* d_q, uint16_t* d_k, uint16_t* d_v,
                        const int64_t* strides, int64_t batch, int64_t heads, int64_t kv_heads, int64_t length,
                        int64_t head, int64_t apart, float scale, int threads) {
    const Shape shape{heads, kv_heads, length, head, scale};
    Strides of[8];
    for (int i = 0; i < 8; ++i) of[i] = strides_of(strides, i);
#pragma omp parallel num_threads(threads)
    {
        use_tiles();
        Backward backward(shape);
#pragma omp for schedule(dynamic)
        for (int64_t unit = 0; unit < batch * kv_heads; ++unit) {
            const int64_t b = unit / kv_heads, g = unit % kv_heads, h = g * shape.group();
            const Mask mask = mask_of(bias, reaches, b * apart, length);
            backward.run(mask, q + of[0].at(b, h), of[0], shape.rows(k + of[1].at(b, g), of[1]), shape.rows(v + of[2].at(b, g), of[2]),
                     out + of[3].at(b, h), of[3], d_out + of[4].at(b, h), of[4], logs + (b * heads + h) * length,
                     d_q + of[5].at(b, h), of[5], d_k + of[6].at(b, g), of[6], d_v + of[7].at(b, g), of[7]);
        }
        release_tiles();
    }
}

}  // extern "C"

#else

extern "C" {

int prepare(int) { return 0; }
int has_unit() { return 0; }
void turned() {}
void turned_wide() {}
void reaches() {}
void attention() {}
void attention_backward() {}

}  // extern "C"

#endif
