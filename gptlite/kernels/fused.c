/* What stands between the matrix products of a training step of model.py, forward and backward, called by fused.py, and of
   a forward pass alone (forward.py).

A step of a small model spends half its time here when each operator is a pass of its own over memory. These functions
read each number once and do everything that is to be done with it: a residual sum, its dropout and the norm of the
result are one pass; softmax, loss and their gradient are another.

Rows are divided among threads in order, and each sum is added in an order that depends only on the shapes and on the
number of threads, so the same step gives the same bits again.

Names as in model.py. N rows are tokens. `act` is the type that matrix products read and write: float, or bf16 (the upper
half of a float) where BF16 is defined. The residual stream, its gradient and all sums are float. */

#include "common.h"
#include "tiles.h"

#define ROWS(i, n) for (int64_t i = first_row(n); i < last_row(n); i++)

#ifdef BF16
static inline float get(act x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}
static inline act put(float x) { /* to the nearest, halves to even */
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (act)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
#else
static inline float get(act x) { return x; }
static inline act put(float x) { return x; }
#endif

/* The rows of this thread. */
static inline int64_t first_row(int64_t n) { return n * omp_get_thread_num() / omp_get_num_threads(); }
static inline int64_t last_row(int64_t n) { return n * (omp_get_thread_num() + 1) / omp_get_num_threads(); }

/* e to the x, to about 2e-7 of it: 2 to a whole number, times a polynomial on [-ln 2 / 2, ln 2 / 2]. */
static inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    float whole = x * 1.44269504f + shift;
    int32_t bits;
    memcpy(&bits, &whole, 4);
    whole -= shift;
    float r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t power = (bits + 127) << 23; /* the low bits of `whole` are the whole number */
    float scale;
    memcpy(&scale, &power, 4);
    return p * scale;
}

/* The bits of |x|, which are in the order of the numbers. */
static inline int32_t size_bits(float x) {
    int32_t bits;
    memcpy(&bits, &x, 4);
    return bits & 0x7fffffff;
}

/* The 127th part of the largest number, whose size has these bits; 0 where it is next to nothing. */
static inline float scale_of(int32_t bits) {
    float largest;
    memcpy(&largest, &bits, 4);
    return largest < 1e-30f ? 0 : largest / 127;
}

static inline float inverse_of(float scale) { return scale == 0 ? 0 : 1 / scale; }

/* To the nearest whole number, halves to even, for |x| < 2^22. */
static inline int32_t rounded(float x) {
    float shifted = x + 12582912.0f;
    int32_t bits;
    memcpy(&bits, &shifted, 4);
    return bits - 0x4b400000;
}

/* -- Dropout: whether a number is kept is a function of the key and its index, so no mask has to be stored */

static inline uint32_t scramble(uint32_t x) { /* "lowbias32" of Chris Wellons' hash prospector */
    x ^= x >> 16;
    x *= 0x7feb352dU;
    x ^= x >> 15;
    x *= 0x846ca68bU;
    return x ^ x >> 16;
}

/* 1 / (1 - rate) for what is kept, else 0. */
static inline float kept(struct dropout drop, float scale, uint32_t index) {
    uint32_t random = scramble(scramble(index + drop.first) ^ drop.second);
    return (float)(int32_t)(random >> 8) < drop.rate * 16777216.0f ? 0.0f : scale;
}

/* factors[j] = what component j of row `row` (d) is multiplied by. It is a function of its own because compilers leave the
   whole loop scalar where it is joined with others, and then it takes six times as long. */
static void keep_factors(struct dropout drop, int64_t row, int64_t d, float *restrict factors) {
    float scale = 1 / (1 - drop.rate);
    uint32_t first = (uint32_t)(row * d);
#pragma omp simd
    for (int64_t j = 0; j < d; j++) factors[j] = kept(drop, scale, first + (uint32_t)j);
}

/* x (n,) with dropout, in place. */
void drop(int threads, int64_t n, struct dropout drop, float *x) {
    float scale = 1 / (1 - drop.rate);
#pragma omp parallel num_threads(threads)
    {
        int64_t from = first_row(n), to = last_row(n);
#pragma omp simd
        for (int64_t i = from; i < to; i++) x[i] *= kept(drop, scale, (uint32_t)i);
    }
}

/* -- RMSNorm of the residual stream */

/* out = x + dropout(y) and its norm: normed = weight * out / rms(out), with inverse[row] = 1 / rms. Without y, `out` may
   be x itself. x, out (n, d); y, normed (n, d) of act. */
void add_and_norm(int threads, int64_t n, int64_t d, struct dropout drop, float eps, const float *weight,
                  const float *x, const act *y, float *out, act *normed, float *inverse) {
#pragma omp parallel num_threads(threads)
    ROWS(i, n) {
        const float *xi = x + i * d;
        float *oi = out + i * d;
        act *ni = normed + i * d;
        float squares = 0;
        if (y && drop.rate > 0) {
            const act *yi = y + i * d;
            keep_factors(drop, i, d, oi);
#pragma omp simd
            for (int64_t j = 0; j < d; j++) oi[j] = xi[j] + get(yi[j]) * oi[j];
        } else if (y) {
            const act *yi = y + i * d;
#pragma omp simd
            for (int64_t j = 0; j < d; j++) oi[j] = xi[j] + get(yi[j]);
        }
        const float *sum = y ? oi : xi;
#pragma omp simd reduction(+ : squares)
        for (int64_t j = 0; j < d; j++) squares += sum[j] * sum[j];
        float r = 1 / sqrtf(squares / d + eps);
#pragma omp simd
        for (int64_t j = 0; j < d; j++) ni[j] = put(sum[j] * r * weight[j]);
        inverse[i] = r;
    }
}

/* The gradient dx (n, d) of the stream x, to which that of its norm, dnormed, is added; dweight (d,); and, with
   `dropped`, the gradient of what was added to the stream with `drop` before: of act, (n, d).
   workspace: (threads, 2, d). */
void norm_backward(int threads, int64_t n, int64_t d, struct dropout drop, const float *weight, const float *x,
                   const float *inverse, const act *dnormed, float *dx, act *dropped, float *dweight,
                   float *workspace) {
    memset(workspace, 0, sizeof(float) * 2 * d * threads);
#pragma omp parallel num_threads(threads)
    {
        float *sum = workspace + omp_get_thread_num() * 2 * d, *factors = sum + d;
        ROWS(i, n) {
            const float *xi = x + i * d;
            const act *gi = dnormed + i * d;
            float *di = dx + i * d, r = inverse[i], along = 0;
#pragma omp simd reduction(+ : along)
            for (int64_t j = 0; j < d; j++) along += get(gi[j]) * weight[j] * xi[j];
            along *= r * r / d; /* the component along x, which the norm removes */
#pragma omp simd
            for (int64_t j = 0; j < d; j++) {
                float g = get(gi[j]);
                sum[j] += g * xi[j] * r;
                di[j] += r * (g * weight[j] - xi[j] * along);
            }
            if (dropped && drop.rate > 0) {
                keep_factors(drop, i, d, factors);
#pragma omp simd
                for (int64_t j = 0; j < d; j++) dropped[i * d + j] = put(di[j] * factors[j]);
            } else if (dropped) {
#pragma omp simd
                for (int64_t j = 0; j < d; j++) dropped[i * d + j] = put(di[j]);
            }
        }
    }
    for (int64_t j = 0; j < d; j++) {
        float total = 0;
        for (int t = 0; t < threads; t++) total += workspace[t * 2 * d + j];
        dweight[j] = total;
    }
}

/* -- Queries and keys: normalised (where there are weights) and rotated */

/* q, k (n, H, C) of the first two thirds of qkv (n, 3, H, C); inverse (2, n, H), used with weights only. */
void heads_forward(int threads, struct heads s, const float *q_weight, const float *k_weight, const act *qkv, act *q,
                   act *k, float *inverse) {
    int64_t width = s.n_heads * s.size, half = s.size / 2;
#pragma omp parallel num_threads(threads)
    ROWS(i, s.n) {
        const float *cos = s.cos + i % s.length * s.size, *sin = s.sin + i % s.length * s.size;
        for (int kind = 0; kind < 2; kind++) {
            const float *weight = kind ? k_weight : q_weight;
            for (int64_t h = 0; h < s.n_heads; h++) {
                const act *x = qkv + (3 * i + kind) * width + h * s.size;
                act *y = (kind ? k : q) + i * width + h * s.size;
                float squares = 0, r = 1;
                if (weight) {
#pragma omp simd reduction(+ : squares)
                    for (int64_t j = 0; j < s.size; j++) squares += get(x[j]) * get(x[j]);
                    r = inverse[(kind * s.n + i) * s.n_heads + h] = 1 / sqrtf(squares / s.size + s.eps);
                }
#pragma omp simd
                for (int64_t j = 0; j < half; j++) {
                    float a = get(x[j]) * r * (weight ? weight[j] : 1.0f);
                    float b = get(x[j + half]) * r * (weight ? weight[j + half] : 1.0f);
                    y[j] = put(a * cos[j] - b * sin[j]);
                    y[j + half] = put(b * cos[j + half] + a * sin[j + half]);
                }
            }
        }
    }
}

/* dqkv (n, 3, H, C) of dq, dk, dv (n, H, C); dq_weight, dk_weight (C,).
   workspace: (threads, 3, C), for each thread its two sums and a gradient that is rotated back. */
void heads_backward(int threads, struct heads s, const float *q_weight, const float *k_weight, const act *qkv,
                    const float *inverse, const act *dq, const act *dk, const act *dv, act *dqkv, float *dq_weight,
                    float *dk_weight, float *workspace) {
    int64_t width = s.n_heads * s.size, half = s.size / 2;
    memset(workspace, 0, sizeof(float) * 3 * s.size * threads);
#pragma omp parallel num_threads(threads)
    {
        float *own = workspace + omp_get_thread_num() * 3 * s.size, *turned = own + 2 * s.size;
        ROWS(i, s.n) {
            const float *cos = s.cos + i % s.length * s.size, *sin = s.sin + i % s.length * s.size;
            memcpy(dqkv + (3 * i + 2) * width, dv + i * width, sizeof(act) * width);
            for (int kind = 0; kind < 2; kind++) {
                const float *weight = kind ? k_weight : q_weight;
                float *sum = own + kind * s.size;
                for (int64_t h = 0; h < s.n_heads; h++) {
                    const act *x = qkv + (3 * i + kind) * width + h * s.size;
                    const act *g = (kind ? dk : dq) + i * width + h * s.size;
                    act *dx = dqkv + (3 * i + kind) * width + h * s.size;
#pragma omp simd
                    for (int64_t j = 0; j < half; j++) {
                        turned[j] = get(g[j]) * cos[j] + get(g[j + half]) * sin[j + half];
                        turned[j + half] = get(g[j + half]) * cos[j + half] - get(g[j]) * sin[j];
                    }
                    if (!weight) {
#pragma omp simd
                        for (int64_t j = 0; j < s.size; j++) dx[j] = put(turned[j]);
                        continue;
                    }
                    float r = inverse[(kind * s.n + i) * s.n_heads + h], along = 0;
#pragma omp simd reduction(+ : along)
                    for (int64_t j = 0; j < s.size; j++) along += turned[j] * weight[j] * get(x[j]);
                    along *= r * r / s.size;
#pragma omp simd
                    for (int64_t j = 0; j < s.size; j++) {
                        sum[j] += turned[j] * get(x[j]) * r;
                        dx[j] = put(r * (turned[j] * weight[j] - get(x[j]) * along));
                    }
                }
            }
        }
    }
    for (int64_t j = 0; j < 2 * s.size; j++) {
        float total = 0, *into = j < s.size ? dq_weight : dk_weight;
        for (int t = 0; t < threads; t++) total += workspace[t * 3 * s.size + j];
        if (into) into[j % s.size] = total;
    }
}

/* -- Attention: head by head, for QUERIES queries at a time, and only for the keys that they may look at

   A matrix library is slow for products of this size, and would compute the half that the mask hides. */

#define QUERIES 24 /* that are computed together */

struct workspace { /* of one thread */
    int64_t wide, long_row;                               /* row lengths of matrices with C and with `length` columns */
    float *k, *v, *dk, *dv, *k_transposed, *v_transposed; /* (length, C), the last two (C, length) */
    float *q, *out, *dout, *scores, *dscores;             /* (QUERIES, C), the last two (QUERIES, length) */
};

static int64_t workspace_size(int64_t length, int64_t size) {
    int64_t wide = row_length(size), long_row = row_length(length);
    return 4 * length * wide + 2 * size * long_row + QUERIES * (3 * wide + 2 * long_row);
}

/* Floats that attention needs in its workspace. */
int64_t attention_workspace_size(int threads, int64_t length, int64_t size) {
    return threads * workspace_size(length, size);
}

static struct workspace divide_workspace(float *floats, int64_t length, int64_t size) {
    struct workspace w = {.wide = row_length(size), .long_row = row_length(length)};
    memset(floats, 0, sizeof(float) * workspace_size(length, size)); /* columns that fill up a tile are zero */
    float **by_tokens[] = {&w.k, &w.v, &w.dk, &w.dv}, **by_components[] = {&w.k_transposed, &w.v_transposed};
    for (int i = 0; i < 4; i++, floats += length * w.wide) *by_tokens[i] = floats;
    for (int i = 0; i < 2; i++, floats += size * w.long_row) *by_components[i] = floats;
    float **narrow[] = {&w.q, &w.out, &w.dout}, **broad[] = {&w.scores, &w.dscores};
    for (int i = 0; i < 3; i++, floats += QUERIES * w.wide) *narrow[i] = floats;
    for (int i = 0; i < 2; i++, floats += QUERIES * w.long_row) *broad[i] = floats;
    return w;
}

/* n rows of a head, which lie `row` apart, to floats; their transpose; and floats back to rows. */
static void read_rows(int64_t n, int64_t size, const act *from, int64_t row, float *to, int64_t to_row) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < size; j++) to[i * to_row + j] = get(from[i * row + j]);
}

static void transpose(int64_t n, int64_t size, const float *from, int64_t row, float *to, int64_t to_row) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < size; j++) to[j * to_row + i] = from[i * row + j];
}

static void write_rows(int64_t n, int64_t size, const float *from, int64_t row, act *to, int64_t to_row) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < size; j++) to[i * to_row + j] = put(from[i * row + j]);
}

/* mixed (n, H, C) = softmax(q k^T / sqrt(C)) v over each token and those before it in its window. q, k (n, H, C);
   qkv (n, 3, H, C) has the values. log_sums (windows, H, length) of the softmax. workspace:
   attention_workspace_size floats. */
void attention_forward(int threads, struct heads s, const act *q, const act *k, const act *qkv, act *mixed,
                       float *log_sums, float *workspace) {
    int64_t T = s.length, C = s.size, row = s.n_heads * C;
    float scale = 1 / sqrtf(C);
#pragma omp parallel num_threads(threads)
    {
        struct workspace w = divide_workspace(workspace + omp_get_thread_num() * workspace_size(T, C), T, C);
        ROWS(item, s.n / T * s.n_heads) {
            int64_t first = item / s.n_heads * T, h = item % s.n_heads;
            read_rows(T, C, k + first * row + h * C, row, w.k, w.wide);
            transpose(T, C, w.k, w.wide, w.k_transposed, w.long_row);
            read_rows(T, C, qkv + first * 3 * row + 2 * row + h * C, 3 * row, w.v, w.wide);
            for (int64_t from = 0; from < T; from += QUERIES) {
                int64_t n = T - from < QUERIES ? T - from : QUERIES, seen = from + n;
                int64_t whole = (seen + TILE_COLUMNS - 1) / TILE_COLUMNS * TILE_COLUMNS;
                int64_t start = (first + from) * row + h * C;
                read_rows(n, C, q + start, row, w.q, w.wide);
                multiply(n, whole, C, w.q, w.wide, 1, w.k_transposed, w.long_row, w.scores, w.long_row, 0);
                for (int64_t i = 0; i < n; i++) {
                    float *score = w.scores + i * w.long_row, largest = score[0], total = 0;
                    int64_t own = from + i + 1; /* keys that this query sees */
#pragma omp simd reduction(max : largest)
                    for (int64_t j = 0; j < own; j++) largest = score[j] > largest ? score[j] : largest;
#pragma omp simd reduction(+ : total)
                    for (int64_t j = 0; j < own; j++) total += score[j] = exponential((score[j] - largest) * scale);
                    float inverse = 1 / total;
#pragma omp simd
                    for (int64_t j = 0; j < own; j++) score[j] *= inverse;
                    for (int64_t j = own; j < seen; j++) score[j] = 0;
                    log_sums[item * T + from + i] = largest * scale + logf(total);
                }
                multiply(n, (C + TILE_COLUMNS - 1) / TILE_COLUMNS * TILE_COLUMNS, seen, w.scores, w.long_row, 1, w.v, w.wide,
                         w.out, w.wide, 0);
                write_rows(n, C, w.out, w.wide, mixed + start, row);
            }
        }
    }
}

/* dq, dk, dv (n, H, C) of dmixed (n, H, C). */
void attention_backward(int threads, struct heads s, const act *q, const act *k, const act *qkv, const float *log_sums,
                        const act *dmixed, act *dq, act *dk, act *dv, float *workspace) {
    int64_t T = s.length, C = s.size, row = s.n_heads * C, tiles = (C + TILE_COLUMNS - 1) / TILE_COLUMNS * TILE_COLUMNS;
    float scale = 1 / sqrtf(C);
#pragma omp parallel num_threads(threads)
    {
        struct workspace w = divide_workspace(workspace + omp_get_thread_num() * workspace_size(T, C), T, C);
        ROWS(item, s.n / T * s.n_heads) {
            int64_t first = item / s.n_heads * T, h = item % s.n_heads, start = first * row + h * C;
            read_rows(T, C, k + start, row, w.k, w.wide);
            transpose(T, C, w.k, w.wide, w.k_transposed, w.long_row);
            read_rows(T, C, qkv + first * 3 * row + 2 * row + h * C, 3 * row, w.v, w.wide);
            transpose(T, C, w.v, w.wide, w.v_transposed, w.long_row);
            memset(w.dk, 0, sizeof(float) * T * w.wide);
            memset(w.dv, 0, sizeof(float) * T * w.wide);
            for (int64_t from = 0; from < T; from += QUERIES) {
                int64_t n = T - from < QUERIES ? T - from : QUERIES, seen = from + n;
                int64_t whole = (seen + TILE_COLUMNS - 1) / TILE_COLUMNS * TILE_COLUMNS;
                int64_t at = start + from * row;
                read_rows(n, C, q + at, row, w.q, w.wide);
                read_rows(n, C, dmixed + at, row, w.dout, w.wide);
                multiply(n, whole, C, w.q, w.wide, 1, w.k_transposed, w.long_row, w.scores, w.long_row, 0);
                multiply(n, whole, C, w.dout, w.wide, 1, w.v_transposed, w.long_row, w.dscores, w.long_row,
                         0);
                for (int64_t i = 0; i < n; i++) {
                    float *score = w.scores + i * w.long_row, *dscore = w.dscores + i * w.long_row;
                    float log_sum = log_sums[item * T + from + i], mean = 0;
                    int64_t own = from + i + 1;
#pragma omp simd reduction(+ : mean)
                    for (int64_t j = 0; j < own; j++) {
                        score[j] = exponential(score[j] * scale - log_sum);
                        mean += score[j] * dscore[j];
                    }
#pragma omp simd
                    for (int64_t j = 0; j < own; j++) dscore[j] = score[j] * (dscore[j] - mean) * scale;
                    for (int64_t j = own; j < seen; j++) score[j] = dscore[j] = 0;
                }
                multiply(n, tiles, seen, w.dscores, w.long_row, 1, w.k, w.wide, w.out, w.wide, 0);
                write_rows(n, C, w.out, w.wide, dq + at, row);
                multiply(seen, tiles, n, w.dscores, 1, w.long_row, w.q, w.wide, w.dk, w.wide, 1);
                multiply(seen, tiles, n, w.scores, 1, w.long_row, w.dout, w.wide, w.dv, w.wide, 1);
            }
            write_rows(T, C, w.dk, w.wide, dk + start, row);
            write_rows(T, C, w.dv, w.wide, dv + start, row);
        }
    }
}

/* -- SwiGLU: hidden (n, f) = silu(gate) * up, with gate and up in the halves of gate_up (n, 2, f) */

static inline float silu(float x) { return x / (1 + exponential(-x)); }

void swiglu_forward(int threads, int64_t n, int64_t f, const act *gate_up, act *hidden) {
#pragma omp parallel num_threads(threads)
    ROWS(i, n) {
        const act *gate = gate_up + 2 * i * f, *up = gate + f;
        act *hi = hidden + i * f;
#pragma omp simd
        for (int64_t j = 0; j < f; j++) hi[j] = put(silu(get(gate[j])) * get(up[j]));
    }
}

/* Replaces gate_up by its gradient. */
void swiglu_backward(int threads, int64_t n, int64_t f, act *gate_up, const act *dhidden) {
#pragma omp parallel num_threads(threads)
    ROWS(i, n) {
        act *gate = gate_up + 2 * i * f, *up = gate + f;
        const act *di = dhidden + i * f;
#pragma omp simd
        for (int64_t j = 0; j < f; j++) {
            float g = get(gate[j]), u = get(up[j]), d = get(di[j]), sigmoid = 1 / (1 + exponential(-g));
            gate[j] = put(d * u * sigmoid * (1 + g * (1 - sigmoid)));
            up[j] = put(d * g * sigmoid);
        }
    }
}

/* -- Products of 8-bit integers (products.py) */

/* to (d,) = from divided by what is returned, the scale, and rounded, so that the largest becomes 127 or -127. Sizes are
   compared by their bits, because those of what is not a number are the largest, and so reach the scale. */
static float quantize_row(int64_t d, const float *from, int8_t *to) {
    int32_t bits = 0;
#pragma omp simd reduction(max : bits)
    for (int64_t j = 0; j < d; j++) bits = size_bits(from[j]) > bits ? size_bits(from[j]) : bits;
    float scale = scale_of(bits), inverse = inverse_of(scale);
#pragma omp simd
    for (int64_t j = 0; j < d; j++) to[j] = (int8_t)rounded(from[j] * inverse);
    return scale;
}

/* numbers, scales (n,) of the rows of x (n, d). */
void quantize_rows(int threads, int64_t n, int64_t d, const float *x, int8_t *numbers, float *scales) {
#pragma omp parallel num_threads(threads)
    ROWS(i, n) scales[i] = quantize_row(d, x + i * d, numbers + i * d);
}

/* The same with a scale for each column (d,) instead. Threads share out the columns. */
void quantize_columns(int threads, int64_t n, int64_t d, const float *x, int8_t *numbers, float *scales) {
#pragma omp parallel num_threads(threads)
    {
        int64_t from = first_row(d), to = last_row(d);
        int32_t *bits = (int32_t *)scales; /* until they are complete */
        memset(bits + from, 0, sizeof(int32_t) * (to - from));
        for (int64_t i = 0; i < n; i++) {
#pragma omp simd
            for (int64_t j = from; j < to; j++)
                bits[j] = size_bits(x[i * d + j]) > bits[j] ? size_bits(x[i * d + j]) : bits[j];
        }
        for (int64_t j = from; j < to; j++) scales[j] = scale_of(bits[j]);
        for (int64_t i = 0; i < n; i++) {
#pragma omp simd
            for (int64_t j = from; j < to; j++) numbers[i * d + j] = (int8_t)rounded(x[i * d + j] * inverse_of(scales[j]));
        }
    }
}

/* out (n, d) = numbers times the product of two scales of their row, (n,) each, divided by what is returned, the largest of
   these products, and rounded. */
double fold_scales(int threads, int64_t n, int64_t d, const int8_t *numbers, const float *scales, const float *others,
                   int8_t *out) {
    float largest = 1e-37f; /* more than nothing, because all may be 0 */
    for (int64_t i = 0; i < n; i++) {
        float scale = scales[i] * others[i];
        largest = scale > largest || scale != scale ? scale : largest; /* also what is not a number */
    }
#pragma omp parallel num_threads(threads)
    ROWS(i, n) {
        float factor = scales[i] * others[i] / largest;
#pragma omp simd
        for (int64_t j = 0; j < d; j++) out[i * d + j] = (int8_t)rounded((float)numbers[i * d + j] * factor);
    }
    return largest;
}

/* out (n,) = sums times a scale. `out` may be the same memory as `sums`. */
void scale_all(int threads, int64_t n, const int32_t *sums, float scale, float *out) {
#pragma omp parallel num_threads(threads)
    {
        int64_t from = first_row(n), to = last_row(n);
#pragma omp simd
        for (int64_t i = from; i < to; i++) out[i] = (float)sums[i] * scale;
    }
}

/* out (n, d) = sums times a scale for each row (n,) and each column (d,). `out` may be the same memory as `sums`. */
void scale_sums(int threads, int64_t n, int64_t d, const int32_t *sums, const float *rows, const float *columns,
                float *out) {
#pragma omp parallel num_threads(threads)
    ROWS(i, n) {
        float row = rows[i];
#pragma omp simd
        for (int64_t j = 0; j < d; j++) out[i * d + j] = (float)sums[i * d + j] * row * columns[j];
    }
}

/* `swiglu_forward` of sums (n, 2, f) that are to be scaled; numbers (n, f), scales (n,) of what comes out.
   workspace: (threads, f). */
void swiglu_int8_forward(int threads, int64_t n, int64_t f, const int32_t *sums, const float *rows, const float *columns,
                         int8_t *numbers, float *scales, float *workspace) {
#pragma omp parallel num_threads(threads)
    {
        float *hidden = workspace + omp_get_thread_num() * f;
        ROWS(i, n) {
            const int32_t *gate = sums + 2 * i * f, *up = gate + f;
            float row = rows[i];
#pragma omp simd
            for (int64_t j = 0; j < f; j++)
                hidden[j] = silu((float)gate[j] * row * columns[j]) * ((float)up[j] * row * columns[f + j]);
            scales[i] = quantize_row(f, hidden, numbers + i * f);
        }
    }
}

/* `swiglu_backward` of sums (n, 2, f) and of the gradient dsums (n, f), both to be scaled; numbers (n, 2, f), scales (n,)
   of the gradient of the former. workspace: (threads, 2, f). */
void swiglu_int8_backward(int threads, int64_t n, int64_t f, const int32_t *sums, const float *rows, const float *columns,
                          const int32_t *dsums, const float *drows, const float *dcolumns, int8_t *numbers,
                          float *scales, float *workspace) {
#pragma omp parallel num_threads(threads)
    {
        float *dgate = workspace + omp_get_thread_num() * 2 * f, *dup = dgate + f;
        ROWS(i, n) {
            const int32_t *gate = sums + 2 * i * f, *up = gate + f, *di = dsums + i * f;
            float row = rows[i], drow = drows[i];
#pragma omp simd
            for (int64_t j = 0; j < f; j++) {
                float g = (float)gate[j] * row * columns[j], u = (float)up[j] * row * columns[f + j];
                float d = (float)di[j] * drow * dcolumns[j], sigmoid = 1 / (1 + exponential(-g));
                dgate[j] = d * u * sigmoid * (1 + g * (1 - sigmoid));
                dup[j] = d * g * sigmoid;
            }
            scales[i] = quantize_row(2 * f, dgate, numbers + 2 * i * f);
        }
    }
}

/* -- Loss */

/* The mean of -log softmax(logits)[target] over n rows; logits (n, v) become its gradient. */
double cross_entropy(int threads, int64_t n, int64_t v, act *logits, const int64_t *targets) {
    double sums[MOST_THREADS] = {0};
#pragma omp parallel num_threads(threads)
    {
        double sum = 0;
        ROWS(i, n) {
            act *row = logits + i * v;
            float largest = get(row[0]), total = 0;
            float wanted = get(row[targets[i]]);
#pragma omp simd reduction(max : largest)
            for (int64_t j = 0; j < v; j++) largest = get(row[j]) > largest ? get(row[j]) : largest;
#pragma omp simd reduction(+ : total)
            for (int64_t j = 0; j < v; j++) total += exponential(get(row[j]) - largest);
            sum += largest + logf(total) - wanted;
            float scale = 1 / (total * n);
#pragma omp simd
            for (int64_t j = 0; j < v; j++) row[j] = put(exponential(get(row[j]) - largest) * scale);
            row[targets[i]] = put((exponential(wanted - largest) / total - 1) / n);
        }
        sums[omp_get_thread_num()] = sum;
    }
    double total = 0;
    for (int t = 0; t < threads; t++) total += sums[t];
    return total / n;
}

/* For each of n rows of logits (n, v), in nats: the surprisal of its target, the entropy, and the surprisal of each of m
   sets of tokens, (n, m); and the rank of the target, 1 for the likeliest. sets (m, v) are 1 for the tokens of a set and 0
   for the others. The logits become exp(logit - the largest of the row). */
void next_token(int threads, int64_t n, int64_t v, act *logits, const int64_t *targets, int64_t m, const float *sets,
                double *surprisal, double *entropy, int64_t *rank, double *set_surprisal) {
#pragma omp parallel num_threads(threads)
    ROWS(i, n) {
        act *row = logits + i * v;
        float largest = get(row[0]), wanted = get(row[targets[i]]), total = 0, below = 0;
        int32_t above = 0;
#pragma omp simd reduction(max : largest)
        for (int64_t j = 0; j < v; j++) largest = get(row[j]) > largest ? get(row[j]) : largest;
#pragma omp simd reduction(+ : above)
        for (int64_t j = 0; j < v; j++) above += get(row[j]) > wanted;
#pragma omp simd reduction(+ : total, below)
        for (int64_t j = 0; j < v; j++) {
            float x = get(row[j]) - largest, e = exponential(x);
            total += e;
            below += x < -87.0f ? 0 : x * e;
            row[j] = put(e);
        }
        double log_total = log((double)total);
        surprisal[i] = log_total + largest - wanted;
        entropy[i] = log_total - below / total;
        rank[i] = 1 + above;
        for (int64_t k = 0; k < m; k++) {
            const float *set = sets + k * v;
            float inside = 0;
#pragma omp simd reduction(+ : inside)
            for (int64_t j = 0; j < v; j++) inside += get(row[j]) * set[j];
            double share = inside / total;
            set_surprisal[i * m + k] = -log(share < 1e-300 ? 1e-300 : share > 1 ? 1 : share);
        }
    }
}

/* The same where each row has the k likeliest tokens `ids` of a teacher and their probabilities `shares` too. Returned is
the mean loss on the targets alone. The logits become the gradient of

    (1 - weight) * (loss on the targets) + weight * (cross entropy with the teacher),

where the teacher's other tokens count as one event, whose probability is what the k leave. */
double distilled_cross_entropy(int threads, int64_t n, int64_t v, act *logits, const int64_t *targets, int64_t k,
                               const int64_t *ids, const float *shares, float weight) {
    double sums[MOST_THREADS] = {0};
#pragma omp parallel num_threads(threads)
    {
        double sum = 0;
        ROWS(i, n) {
            act *row = logits + i * v;
            const int64_t *top = ids + i * k;
            const float *share = shares + i * k;
            float largest = get(row[0]), total = 0, own = 0, teacher = 0;
            float wanted = get(row[targets[i]]);
#pragma omp simd reduction(max : largest)
            for (int64_t j = 0; j < v; j++) largest = get(row[j]) > largest ? get(row[j]) : largest;
#pragma omp simd reduction(+ : total)
            for (int64_t j = 0; j < v; j++) total += exponential(get(row[j]) - largest);
            sum += largest + logf(total) - wanted;
            float kept_logits[MOST_SHARES];
            for (int64_t j = 0; j < k; j++) {
                kept_logits[j] = get(row[top[j]]);
                own += exponential(kept_logits[j] - largest) / total;
                teacher += share[j];
            }
            float left = 1 - teacher > 0 ? 1 - teacher : 0, own_left = 1 - own > 1e-6f ? 1 - own : 1e-6f;
            float others = 1 - weight * left / own_left; /* factor on the probabilities of the other tokens */
            float scale = 1 / (total * n);
#pragma omp simd
            for (int64_t j = 0; j < v; j++) row[j] = put(exponential(get(row[j]) - largest) * scale * others);
            for (int64_t j = 0; j < k; j++)
                row[top[j]] = put(exponential(kept_logits[j] - largest) * scale - weight * share[j] / n);
            row[targets[i]] = put(get(row[targets[i]]) - (1 - weight) / n);
        }
        sums[omp_get_thread_num()] = sum;
    }
    double total = 0;
    for (int t = 0; t < threads; t++) total += sums[t];
    return total / n;
}
