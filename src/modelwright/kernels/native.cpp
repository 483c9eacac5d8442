// Row-wise kernels for CPUs, each one pass over memory where torch's operations need several.
//
// Every function computes in fp32 and stores in the element type T, fp32 or bf16 (the file is compiled once for
// each). Rows are shared out among threads in fixed blocks, so the result does not depend on how
// many threads there are. The plain torch versions that each is tested against stand in rms_norm.py,
// rotary.py, swiglu.py, attention.py, cross_entropy.py and draw.py; native.py compiles and loads this file.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

// GCC would compute what follows a bound a second time for numbers beyond it, and choose afterwards: in vectors that is
// work for all numbers (SwiGLU divided four times where two do).
#pragma GCC optimize("no-thread-jumps")

namespace {

#ifdef BFLOAT16

struct T {
    uint16_t bits;
};

inline float load(T x) {
    const uint32_t wide = uint32_t(x.bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
}

inline T store(float x) {  // to nearest, ties to even; a NaN stays one
    uint32_t wide;
    std::memcpy(&wide, &x, 4);
    const uint32_t rounded = (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;
    return {uint16_t(x != x ? 0x7fc0 : rounded)};
}

inline float load(float x) { return x; }

#else

using T = float;

inline float load(T x) { return x; }

inline T store(float x) { return x; }

#endif

// 16 numbers, as often as a register has room for them, and 4-bit places looked up among them: two in a byte, the
// first in its lower half.
using Bits = std::conditional_t<sizeof(T) == 2, uint16_t, uint32_t>;
using TwoBits = std::conditional_t<sizeof(T) == 2, uint32_t, uint64_t>;
constexpr int LANES = 64 / int(sizeof(Bits));
typedef Bits Table __attribute__((vector_size(64)));

inline void look_up(Table table, const uint8_t* packed, T* found) {
    TwoBits places[LANES / 2];
    for (int j = 0; j < LANES / 2; ++j)
        places[j] = TwoBits(packed[j] & 15) | TwoBits(packed[j] >> 4) << (8 * sizeof(Bits));
    Table numbers;
    std::memcpy(&numbers, places, sizeof numbers);
    numbers = __builtin_shuffle(table, numbers);
    std::memcpy(found, &numbers, sizeof numbers);
}

// exp(x) to about 2 units in the last place, in operations that compilers vectorise (the polynomial is that of
// Cephes' expf), of numbers from -87 to 88; what lies outside counts as the nearest of these. NaN of NaN.
inline float bounded_exponential(float x) {
    const float above = -87.f > x ? -87.f : x, clamped = 88.f < above ? 88.f : above;  // one operation each
    const float shifted = clamped * 1.44269504f + 12582912.f;  // 1.5 x 2^23: what is behind the point is rounded away
    const float n = shifted - 12582912.f;
    const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;  // minus n ln 2, in two parts
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.f;
    uint32_t power;
    std::memcpy(&power, &shifted, 4);
    power = (power + 127) << 23;
    float two_to_n;
    std::memcpy(&two_to_n, &power, 4);
    return p * two_to_n;
}

// The same with 0 below -87, which -inf is.
inline float exponential(float x) {
    const float found = bounded_exponential(x);
    return x < -87.f ? 0.f : found;
}

// out = exp(in - top), returns the sum. The two may be the same row.
inline float exponentials(const float* in, float* out, int64_t size, float top) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < size; ++j) {
        out[j] = exponential(in[j] - top);
        sum += out[j];
    }
    return sum;
}

// The part of a mask's row from the first position that may be attended to up to the last.
struct Visible {
    int32_t first, end;
};

inline Visible visible(const T* mask, int64_t size) {
    int32_t first = int32_t(size), end = 0;
#pragma omp simd reduction(min : first) reduction(max : end)
    for (int32_t j = 0; j < int32_t(size); ++j) {
        const bool hidden = load(mask[j]) == -INFINITY;
        const int32_t from = hidden ? int32_t(size) : j, to = hidden ? 0 : j + 1;
        first = from < first ? from : first;
        end = to > end ? to : end;
    }
    return {first < end ? first : end, end};
}

constexpr int64_t SMALL = 16384;  // elements below which waking a second thread costs more than it saves

inline int team(int64_t elements, int threads) { return elements < SMALL ? 1 : threads; }

constexpr int64_t BLOCKS = 32;  // partial sums over rows: a fixed number, whatever the number of threads

// --- drawing a token: weights are exp((logit - highest) / temperature), so that the likeliest has 1

inline float highest(const T* row, int64_t size) {
    float top = -INFINITY;
#pragma omp simd reduction(max : top)
    for (int64_t j = 0; j < size; ++j) {
        const float x = load(row[j]);
        top = x > top ? x : top;
    }
    return top;
}

// The weights of a row; returns their sum.
inline float weigh(const T* row, float* weights, int64_t size, float top, float inverse_temperature) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < size; ++j) {
        weights[j] = exponential((load(row[j]) - top) * inverse_temperature);
        sum += weights[j];
    }
    return sum;
}

inline int64_t first_at(const T* row, int64_t size, float top) {
    int64_t j = 0;
    while (j + 256 < size && highest(row + j, 256) < top) j += 256;
    while (load(row[j]) < top) ++j;
    return j;
}

// A token by its weight, then its id, as one number: more is heavier, and equal weights go to the lower id. Floats
// that are not negative are in the order of their bits.
using Token = uint64_t;

inline uint32_t bits_of(float weight) {
    uint32_t bits;
    std::memcpy(&bits, &weight, 4);
    return bits;
}

inline Token token(float weight, int64_t id) { return uint64_t(bits_of(weight)) << 32 | (UINT32_MAX - uint32_t(id)); }

inline float weight_of(Token token) {
    const uint32_t bits = uint32_t(token >> 32);
    float weight;
    std::memcpy(&weight, &bits, 4);
    return weight;
}

// The tokens that weigh `least` or more and less than `above`, written from `out` on; returns their end. Most blocks
// hold none, and in the others it is cheaper to write every token and to advance only after the right ones.
Token* between(const float* weights, int64_t size, float least, float above, Token* out) {
    constexpr int64_t BLOCK = 16;
    const uint32_t low = bits_of(least), range = bits_of(above) - low;
    for (int64_t first = 0; first < size; first += BLOCK) {
        const bool whole = first + BLOCK <= size;
        uint32_t any = !whole;
        if (whole)
#pragma omp simd reduction(| : any)
            for (int64_t j = first; j < first + BLOCK; ++j) any |= bits_of(weights[j]) - low < range;
        if (!any) continue;
        for (int64_t j = first; j < (whole ? first + BLOCK : size); ++j) {
            *out = token(weights[j], j);
            out += bits_of(weights[j]) - low < range;
        }
    }
    return out;
}

// What a token counts for: 1 towards top_k, its weight towards top_p.
template <bool BY_NUMBER>
inline float worth(float weight) {
    return BY_NUMBER ? 1.f : weight;
}

template <bool BY_NUMBER>
inline double worth_from(const float* weights, int64_t size, float least) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < size; ++j) sum += weights[j] >= least ? worth<BY_NUMBER>(weights[j]) : 0.f;
    return sum;
}

// The lightest of those that it takes, heaviest first, for their worth to reach `wanted`. The tokens, from `low` on
// and below `high`, are halved by value until one is left: neither sorted nor parted, which mispredicted branches
// would make five times slower.
template <bool BY_NUMBER>
Token lightest_taken(Token* tokens, Token* end, Token low, Token high, double wanted) {
    while (end - tokens > 1) {
        const Token middle = low + (high - low) / 2;
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (const Token* t = tokens; t < end; ++t) sum += *t >= middle ? worth<BY_NUMBER>(weight_of(*t)) : 0.f;
        const bool enough = sum >= wanted;
        low = enough ? middle : low;
        high = enough ? high : middle;
        wanted -= enough ? 0 : sum;
        Token* out = tokens;
        for (const Token* t = tokens; t < end; ++t) {
            const Token found = *t;
            *out = found;
            out += found - low < high - low;
        }
        end = out;
    }
    return end > tokens ? *tokens : high;
}

// The same among all tokens. Those that weigh an eighth or more are tried first, then an eighth of that and so on:
// only those between the last two need be looked at one by one.
template <bool BY_NUMBER>
Token border(const float* weights, int64_t size, double wanted) {
    float least = 2.f, above;
    double worth_above, worth_here = 0;
    do {
        above = least, worth_above = worth_here;
        least /= 8.f;
        worth_here = worth_from<BY_NUMBER>(weights, size, least);
    } while (worth_here < wanted && least > 0);
    const std::unique_ptr<Token[]> tokens(new Token[size]);
    Token* end = between(weights, size, least, above, tokens.get());
    const Token low = Token(bits_of(least)) << 32, high = Token(bits_of(above)) << 32;
    return lightest_taken<BY_NUMBER>(tokens.get(), end, low, high, wanted - worth_above);
}

// Zeroes what is lighter than the border.
void cut(float* weights, int64_t size, Token border) {
    for (int64_t j = 0; j < size; ++j) weights[j] = token(weights[j], j) >= border ? weights[j] : 0.f;
}

// One filter after the other, on what the one before it left.
void filter(float* weights, int64_t size, int64_t top_k, double top_p, float min_p) {
    constexpr float POSITIVE = 1e-38f;  // exp(-87), the least that `exponential` gives, is more
    if (top_k < size && double(top_k) < worth_from<true>(weights, size, POSITIVE))
        cut(weights, size, border<true>(weights, size, double(top_k)));
    if (top_p < 1) cut(weights, size, border<false>(weights, size, top_p * worth_from<false>(weights, size, 0.f)));
    if (min_p > 0) cut(weights, size, token(min_p, size));
}

// The first id at which the running sum of the weights exceeds `number` (below 1) times their total. Sums of parts
// are taken first, so that only one part is gone through one by one.
int64_t at_share(const float* weights, int64_t size, double number, double& total) {
    constexpr int64_t PARTS = 256, LINE = 64;
    double sums[PARTS];
    const int64_t part = (size + PARTS * LINE - 1) / (PARTS * LINE) * LINE, parts = (size + part - 1) / part;
    total = 0;
    for (int64_t i = 0; i < parts; ++i)
        total += sums[i] = worth_from<false>(weights + i * part, std::min(part, size - i * part), 0.f);
    double ahead = number * total;
    int64_t i = 0, last = 0;
    while (i + 1 < parts && sums[i] <= ahead) ahead -= sums[i++];
    for (int64_t j = i * part; j < size; ++j) {
        if (weights[j] > ahead) return j;
        if (weights[j] > 0) last = j;  // takes what rounding leaves over
        ahead -= weights[j];
    }
    return last;
}

// The `count` highest numbers of a row that exceed `least`, the highest first, equal ones by id: their ids, and what
// they are. Returns how many there are. One pass for a few: most blocks hold nothing higher than what is found.
template <class X>
int64_t best(const X* row, int64_t size, int64_t count, float least, int64_t* ids, float* found) {
    constexpr int64_t BLOCK = 64, FEW = 256;
    if (count > FEW) {
        std::vector<int64_t> order;
        for (int64_t j = 0; j < size; ++j)
            if (load(row[j]) > least) order.push_back(j);
        const int64_t have = std::min(count, int64_t(order.size()));
        std::partial_sort(order.begin(), order.begin() + have, order.end(), [&](int64_t a, int64_t b) {
            return load(row[a]) != load(row[b]) ? load(row[a]) > load(row[b]) : a < b;
        });
        for (int64_t n = 0; n < have; ++n) ids[n] = order[n], found[n] = load(row[order[n]]);
        return have;
    }
    int64_t have = 0;
    for (int64_t first = 0; first < size; first += BLOCK) {
        const int64_t end = std::min(first + BLOCK, size);
        float top = -INFINITY;
#pragma omp simd reduction(max : top)
        for (int64_t j = first; j < end; ++j) top = load(row[j]) > top ? load(row[j]) : top;
        for (int64_t j = first; top > least && j < end; ++j) {
            const float x = load(row[j]);
            if (!(x > least)) continue;
            int64_t at = have < count ? have++ : count - 1;
            for (; at > 0 && found[at - 1] < x; --at) ids[at] = ids[at - 1], found[at] = found[at - 1];
            ids[at] = j, found[at] = x;
            if (have == count) least = found[count - 1];
        }
    }
    return have;
}

}  // namespace

extern "C" {

void rms_norm(const T* x, const float* weight, T* y, float* scale, int64_t rows, int64_t size, float eps,
              int threads) {
#pragma omp parallel for schedule(static) num_threads(team(rows* size, threads))
    for (int64_t i = 0; i < rows; ++i) {
        const T* in = x + i * size;
        T* out = y + i * size;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < size; ++j) sum += load(in[j]) * load(in[j]);
        const float s = 1.f / std::sqrt(sum / float(size) + eps);
        scale[i] = s;
#pragma omp simd
        for (int64_t j = 0; j < size; ++j) out[j] = store(load(in[j]) * s * weight[j]);
    }
}

void rms_norm_backward(const T* x, const float* weight, const float* scale, const T* dy, T* dx,
                       float* d_weight, int64_t rows, int64_t size, int threads) {
    std::vector<float> parts(BLOCKS * size, 0.f);
#pragma omp parallel for schedule(static) num_threads(team(rows* size, threads))
    for (int64_t block = 0; block < BLOCKS; ++block) {
        float* part = parts.data() + block * size;
        for (int64_t i = rows * block / BLOCKS; i < rows * (block + 1) / BLOCKS; ++i) {
            const T *in = x + i * size, *up = dy + i * size;
            T* out = dx + i * size;
            const float s = scale[i];
            float dot = 0;
#pragma omp simd reduction(+ : dot)
            for (int64_t j = 0; j < size; ++j) {
                const float product = load(up[j]) * load(in[j]);
                part[j] += product * s;
                dot += product * weight[j];
            }
            const float shared = dot / float(size) * s * s * s;
#pragma omp simd
            for (int64_t j = 0; j < size; ++j)
                out[j] = store(load(up[j]) * weight[j] * s - load(in[j]) * shared);
        }
    }
    for (int64_t j = 0; j < size; ++j) {
        float sum = 0;
        for (int64_t block = 0; block < BLOCKS; ++block) sum += parts[block * size + j];
        d_weight[j] = sum;
    }
}

// Rotates pairs (j, j + size / 2) of x into y; both (batch, length, heads, size) by their first three strides, so
// that heads and length can change places on the way. Position i takes row i % angle_rows of the angles.
void rotate(const T* x, const T* cosine, const T* sine, T* y, int64_t batch, int64_t length, int64_t heads,
            int64_t size, int64_t angle_rows, int64_t x_batch, int64_t x_position, int64_t x_head, int64_t y_batch,
            int64_t y_position, int64_t y_head, int threads) {
    const int64_t half = size / 2;
#pragma omp parallel for schedule(static) num_threads(team(batch* length* heads* size, threads))
    for (int64_t i = 0; i < batch * length; ++i) {
        const int64_t b = i / length, t = i % length;
        const T *c = cosine + (i % angle_rows) * size, *s = sine + (i % angle_rows) * size;
        for (int64_t h = 0; h < heads; ++h) {
            const T* in = x + b * x_batch + t * x_position + h * x_head;
            T* out = y + b * y_batch + t * y_position + h * y_head;
#pragma omp simd
            for (int64_t j = 0; j < half; ++j) {
                const float first = load(in[j]), second = load(in[half + j]);
                const float cj = load(c[j]), sj = load(s[j]);
                out[j] = store(first * cj - second * sj);
                out[half + j] = store(second * cj + first * sj);
            }
        }
    }
}

void swiglu(const T* gate, const T* up, T* y, int64_t count, int threads) {
#pragma omp parallel for simd schedule(static) num_threads(team(count, threads))
    for (int64_t i = 0; i < count; ++i) {
        const float g = load(gate[i]);
        y[i] = store(g / (1.f + bounded_exponential(-g)) * load(up[i]));
    }
}

void swiglu_backward(const T* gate, const T* up, const T* dy, T* d_gate, T* d_up, int64_t count, int threads) {
#pragma omp parallel for simd schedule(static) num_threads(team(count, threads))
    for (int64_t i = 0; i < count; ++i) {
        const float g = load(gate[i]), d = load(dy[i]);
        const float sigmoid = 1.f / (1.f + bounded_exponential(-g));
        d_up[i] = store(d * g * sigmoid);
        d_gate[i] = store(d * load(up[i]) * sigmoid * (1.f + g * (1.f - sigmoid)));
    }
}

// softmax(scale x + bias) in place. Row i of x has row (i / shared_by) * period + i % period of the bias: all
// heads of a sequence share its mask. A row may attend to at least one position. Under a causal mask of packed
// documents most of a row is out, and is only set to zero.
void softmax(T* x, const T* bias, int64_t rows, int64_t size, int64_t period, int64_t shared_by, float scale,
             int threads) {
#pragma omp parallel num_threads(team(rows* size, threads))
    {
        std::vector<float> buffer(size);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < rows; ++i) {
            const T* mask = bias + ((i / shared_by) * period + i % period) * size;
            const Visible part = visible(mask, size);
            const int64_t count = part.end - part.first;
            T* row = x + i * size + part.first;
            mask += part.first;
            float* wide = buffer.data();
            float top = -INFINITY;
#pragma omp simd reduction(max : top)
            for (int64_t j = 0; j < count; ++j) {
                wide[j] = load(row[j]) * scale + load(mask[j]);
                top = wide[j] > top ? wide[j] : top;
            }
            const float share = 1.f / exponentials(wide, wide, count, top);
#pragma omp simd
            for (int64_t j = 0; j < count; ++j) row[j] = store(wide[j] * share);
            std::memset(static_cast<void*>(x + i * size), 0, size_t(part.first) * sizeof(T));
            std::memset(static_cast<void*>(row + count), 0, size_t(size - part.end) * sizeof(T));
        }
    }
}

// d(scale x) from the probabilities and their gradient, which is overwritten; the mask as in softmax.
void softmax_backward(const T* probabilities, T* gradient, const T* bias, int64_t rows, int64_t size,
                      int64_t period, int64_t shared_by, float scale, int threads) {
#pragma omp parallel for schedule(static) num_threads(team(rows* size, threads))
    for (int64_t i = 0; i < rows; ++i) {
        const Visible part = visible(bias + ((i / shared_by) * period + i % period) * size, size);
        const int64_t count = part.end - part.first;
        const T* p = probabilities + i * size + part.first;
        T* d = gradient + i * size + part.first;
        float dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t j = 0; j < count; ++j) dot += load(p[j]) * load(d[j]);
#pragma omp simd
        for (int64_t j = 0; j < count; ++j) d[j] = store(load(p[j]) * (load(d[j]) - dot) * scale);
        std::memset(static_cast<void*>(gradient + i * size), 0, size_t(part.first) * sizeof(T));
        std::memset(static_cast<void*>(d + count), 0, size_t(size - part.end) * sizeof(T));
    }
}

// log p(target) of each row of logits. With `weights`, the logits become the gradient of
// sum_i weights[i] (log p(target_i) - z n_i^2) where n_i = log(sum_j exp(logit_ij)), kept in `normalizers` where
// that is not null; a stride of 0 gives all rows the one weight.
void cross_entropy(T* logits, const int64_t* targets, const float* weights, int64_t weight_stride,
                   float* logprobs, float* normalizers, float z, int64_t rows, int64_t size, int threads) {
#pragma omp parallel num_threads(team(rows* size, threads))
    {
        std::vector<float> buffer(size);
        float* wide = buffer.data();
#pragma omp for schedule(static)
        for (int64_t i = 0; i < rows; ++i) {
            T* row = logits + i * size;
            float top = -INFINITY;
#pragma omp simd reduction(max : top)
            for (int64_t j = 0; j < size; ++j) {
                wide[j] = load(row[j]);
                top = wide[j] > top ? wide[j] : top;
            }
            const float chosen = wide[targets[i]] - top, sum = exponentials(wide, wide, size, top);
            logprobs[i] = chosen - std::log(sum);
            const float normalizer = top + std::log(sum), pull = 2.f * z * normalizer;
            if (normalizers != nullptr) normalizers[i] = normalizer;
            if (weights == nullptr) continue;
            const float weight = weights[i * weight_stride], share = -weight / sum * (1.f + pull);
#pragma omp simd
            for (int64_t j = 0; j < size; ++j) row[j] = store(wide[j] * share);
            const float p = std::exp(logprobs[i]);
            row[targets[i]] = store(weight * (1.f - p - p * pull));
        }
    }
}

// Draws a token for each row of `edited` logits: the first at which the running sum of the weights, in the order of
// ids, exceeds numbers[i] of their total. A top_k of 1 takes the likeliest. `logprobs` has two for each: the
// token's under `logits` (which may be the same rows), and under the weights it was drawn from, NaN where no token
// can be drawn. Row i also tells of the `listed[i]` likeliest tokens under each of the two, with their log-probabilities
// (rows x 2 x most, of which it writes as many as there are); `listed` is null where nobody asks.
void draw(const T* logits, const T* edited, const float* inverse_temperature, const int64_t* top_k,
          const double* top_p, const float* min_p, const double* numbers, int64_t* ids, double* logprobs,
          const int64_t* listed, int64_t* best_ids, double* best_logprobs, int64_t most, int64_t rows, int64_t size,
          int threads) {
#pragma omp parallel num_threads(rows == 1 ? 1 : team(rows* size, threads))
    {
        const std::unique_ptr<float[]> buffer(new float[size]), found(new float[most]);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < rows; ++i) {
            float* weights = buffer.get();
            const T *own = logits + i * size, *row = edited + i * size;
            const float own_top = highest(own, size), top = row == own ? own_top : highest(row, size);
            const float normalizer = own_top + std::log(weigh(own, weights, size, own_top, 1.f));
            double total = 1;
            if (!std::isfinite(normalizer) || !std::isfinite(top)) {
                ids[i] = 0;
                total = NAN;
            } else if (top_k[i] == 1) {
                ids[i] = first_at(row, size, top);
                if (listed != nullptr) std::memset(weights, 0, size_t(size) * sizeof(float));
                weights[ids[i]] = 1.f;
            } else {
                if (row != own || inverse_temperature[i] != 1.f)
                    weigh(row, weights, size, top, inverse_temperature[i]);
                filter(weights, size, top_k[i], top_p[i], min_p[i]);
                ids[i] = at_share(weights, size, numbers[i], total);
            }
            logprobs[2 * i] = std::isfinite(normalizer) ? load(own[ids[i]]) - normalizer : NAN;
            logprobs[2 * i + 1] = std::log(weights[ids[i]] / total);
            if (listed == nullptr || !listed[i] || !std::isfinite(total)) continue;
            int64_t* tokens = best_ids + 2 * i * most;
            double* told = best_logprobs + 2 * i * most;
            const int64_t likely = best(own, size, listed[i], -INFINITY, tokens, found.get());
            for (int64_t n = 0; n < likely; ++n) told[n] = found[n] - normalizer;
            const int64_t heavy = best(weights, size, listed[i], 0.f, tokens + most, found.get());
            for (int64_t n = 0; n < heavy; ++n) told[most + n] = std::log(found[n] / total);
        }
    }
}

// Weights in 4 bits as numbers of T: two in a byte, the first in its lower half, 64 to a scale (kernels/nf4.py).
void nf4(const uint8_t* packed, const float* scales, const float* code, T* weights, int64_t blocks, int threads) {
#pragma omp parallel for schedule(static) num_threads(team(64 * blocks, threads))
    for (int64_t i = 0; i < blocks; ++i) {
        T numbers[LANES];
        for (int j = 0; j < LANES; ++j) numbers[j] = store(code[j % 16] * scales[i]);
        Table table;
        std::memcpy(&table, numbers, sizeof table);
        for (int64_t j = 64 * i; j < 64 * (i + 1); j += LANES) look_up(table, packed + j / 2, weights + j);
    }
}

// The other way: a scale for each 64 weights, their largest, and for each weight the number of midpoints between
// levels that lie below weight / scale.
void nf4_levels(const T* weights, const float* midpoints, float* scales, uint8_t* packed, int64_t blocks,
                int threads) {
#pragma omp parallel for schedule(static) num_threads(team(64 * blocks, threads))
    for (int64_t i = 0; i < blocks; ++i) {
        float wide[64], scale = 0;
        int32_t levels[64] = {};
        for (int j = 0; j < 64; ++j) {
            wide[j] = load(weights[64 * i + j]);
            scale = std::max(scale, std::fabs(wide[j]));
        }
        scales[i] = scale;
        for (int j = 0; j < 64; ++j) wide[j] /= scale == 0 ? 1.f : scale;
        for (int k = 0; k < 15; ++k)
            for (int j = 0; j < 64; ++j) levels[j] += wide[j] > midpoints[k];
        for (int j = 0; j < 32; ++j) packed[32 * i + j] = uint8_t(levels[2 * j] | levels[2 * j + 1] << 4);
    }
}

}  // extern "C"
