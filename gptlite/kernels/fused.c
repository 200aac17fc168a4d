/* What stands between the matrix products of a training step of model.py, forward and backward, for fused.py.

A step of a small model spends half its time here if each operator is a pass of its own over memory. These functions
read every number once and do all that is to be done with it: a residual sum, its dropout and the norm of the result are
one pass, so are softmax, loss and their gradient.

Rows are shared out to threads in order, and each sum is added up in an order that depends on the shapes and on the
number of threads alone: the same step gives the same bits again.

Names as in model.py. N rows are tokens; "act" is the type in which matrix products read and write: float, or bf16
(the upper half of a float) where BF16 is defined. The residual stream, its gradient and all sums are float. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_thread_num() 0
#define omp_get_num_threads() 1
#endif

#define MOST_THREADS 256
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(32), aligned(4), may_alias));

#define ROWS(i, n) for (int64_t i = first_row(n); i < last_row(n); i++)

#ifdef BF16
typedef uint16_t act;
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
typedef float act;
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

/* -- Dropout: whether a number is kept is a function of a key and its place, so that nothing has to be remembered */

struct dropout {
    float rate;
    uint32_t first, second; /* a key that no other call has */
};

static inline uint32_t scramble(uint32_t x) { /* "lowbias32" of Chris Wellons' hash prospector */
    x ^= x >> 16;
    x *= 0x7feb352dU;
    x ^= x >> 15;
    x *= 0x846ca68bU;
    return x ^ x >> 16;
}

/* 1 / (1 - rate) for what is kept, else 0. */
static inline float kept(struct dropout drop, float scale, uint32_t place) {
    uint32_t random = scramble(scramble(place + drop.first) ^ drop.second);
    return (float)(int32_t)(random >> 8) < drop.rate * 16777216.0f ? 0.0f : scale;
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
    float scale = 1 / (1 - drop.rate);
#pragma omp parallel num_threads(threads)
    ROWS(i, n) {
        const float *xi = x + i * d;
        float *oi = out + i * d;
        act *ni = normed + i * d;
        float squares = 0;
        if (y && drop.rate > 0) {
            const act *yi = y + i * d;
#pragma omp simd
            for (int64_t j = 0; j < d; j++) oi[j] = xi[j] + get(yi[j]) * kept(drop, scale, (uint32_t)(i * d + j));
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
   sums: (threads, d), room to work in. */
void norm_backward(int threads, int64_t n, int64_t d, struct dropout drop, const float *weight, const float *x,
                   const float *inverse, const act *dnormed, float *dx, act *dropped, float *dweight, float *sums) {
    float scale = 1 / (1 - drop.rate);
    memset(sums, 0, sizeof(float) * d * threads);
#pragma omp parallel num_threads(threads)
    {
        float *sum = sums + omp_get_thread_num() * d;
        ROWS(i, n) {
            const float *xi = x + i * d;
            const act *gi = dnormed + i * d;
            float *di = dx + i * d, r = inverse[i], along = 0;
#pragma omp simd reduction(+ : along)
            for (int64_t j = 0; j < d; j++) along += get(gi[j]) * weight[j] * xi[j];
            along *= r * r / d; /* what would change the length of x, which the norm takes away */
#pragma omp simd
            for (int64_t j = 0; j < d; j++) {
                float g = get(gi[j]);
                sum[j] += g * xi[j] * r;
                di[j] += r * (g * weight[j] - xi[j] * along);
            }
            if (dropped && drop.rate > 0) {
#pragma omp simd
                for (int64_t j = 0; j < d; j++)
                    dropped[i * d + j] = put(di[j] * kept(drop, scale, (uint32_t)(i * d + j)));
            } else if (dropped) {
#pragma omp simd
                for (int64_t j = 0; j < d; j++) dropped[i * d + j] = put(di[j]);
            }
        }
    }
    for (int64_t j = 0; j < d; j++) {
        float total = 0;
        for (int t = 0; t < threads; t++) total += sums[t * d + j];
        dweight[j] = total;
    }
}

/* -- Queries and keys: normalised (where there are weights) and rotated */

struct heads {
    int64_t n, length, n_heads, size; /* rows; tokens of a window; H; C */
    const float *cos, *sin;           /* (length, C) */
    float eps;
};

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
                float normed[s.size], squares = 0, r = 1;
                if (weight) {
#pragma omp simd reduction(+ : squares)
                    for (int64_t j = 0; j < s.size; j++) squares += get(x[j]) * get(x[j]);
                    r = inverse[(kind * s.n + i) * s.n_heads + h] = 1 / sqrtf(squares / s.size + s.eps);
                }
#pragma omp simd
                for (int64_t j = 0; j < s.size; j++) normed[j] = get(x[j]) * r * (weight ? weight[j] : 1.0f);
#pragma omp simd
                for (int64_t j = 0; j < half; j++) {
                    y[j] = put(normed[j] * cos[j] - normed[j + half] * sin[j]);
                    y[j + half] = put(normed[j + half] * cos[j + half] + normed[j] * sin[j + half]);
                }
            }
        }
    }
}

/* dqkv (n, 3, H, C) of dq, dk, dv (n, H, C); dq_weight, dk_weight (C,). sums: (threads, 2, C), room to work in. */
void heads_backward(int threads, struct heads s, const float *q_weight, const float *k_weight, const act *qkv,
                    const float *inverse, const act *dq, const act *dk, const act *dv, act *dqkv, float *dq_weight,
                    float *dk_weight, float *sums) {
    int64_t width = s.n_heads * s.size, half = s.size / 2;
    memset(sums, 0, sizeof(float) * 2 * s.size * threads);
#pragma omp parallel num_threads(threads)
    {
        float *own = sums + omp_get_thread_num() * 2 * s.size;
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
                    float turned[s.size];
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
        for (int t = 0; t < threads; t++) total += sums[t * 2 * s.size + j];
        if (into) into[j % s.size] = total;
    }
}

/* -- Attention: each window's heads one after the other, a few queries at a time, and of the keys only those that they see

   The products are too small for a library to be quick at them, and half of each would be hidden by the mask. */

#define TALL 6   /* rows and columns of a product that are computed side by side: twelve vectors of sums */
#define WIDE 16
#define QUERIES 24

/* TALL or fewer rows and WIDE columns of C (+)= A B, with k terms in each sum. */
INLINE void tile(const int rows, int64_t k, const float *a, int64_t a_row, int64_t a_term, const float *b, int64_t b_row,
                 float *c, int64_t c_row, int adds) {
    vec sum[TALL][2] = {{{0}}};
    for (int64_t p = 0; p < k; p++) {
        vec left = *(const vec *)(b + p * b_row), right = *(const vec *)(b + p * b_row + 8);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            float x = a[r * a_row + p * a_term];
            sum[r][0] += x * left;
            sum[r][1] += x * right;
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
        for (int side = 0; side < 2; side++) {
            vec *to = (vec *)(c + r * c_row + 8 * side);
            if (adds) sum[r][side] += *to;
            *to = sum[r][side];
        }
}

/* C (m, n) = A (m, k) B (k, n), or is added to it; n is a multiple of WIDE. A's rows and terms lie as far apart as said,
   so it may be a transposed matrix. */
static void multiply(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_row, int64_t a_term, const float *b,
                     int64_t b_row, float *c, int64_t c_row, int adds) {
    for (int64_t j = 0; j < n; j += WIDE)
        for (int64_t i = 0; i < m; i += TALL) {
            const float *ai = a + i * a_row;
            float *ci = c + i * c_row + j;
            switch (m - i) {
                case 1: tile(1, k, ai, a_row, a_term, b + j, b_row, ci, c_row, adds); break;
                case 2: tile(2, k, ai, a_row, a_term, b + j, b_row, ci, c_row, adds); break;
                case 3: tile(3, k, ai, a_row, a_term, b + j, b_row, ci, c_row, adds); break;
                case 4: tile(4, k, ai, a_row, a_term, b + j, b_row, ci, c_row, adds); break;
                case 5: tile(5, k, ai, a_row, a_term, b + j, b_row, ci, c_row, adds); break;
                default: tile(TALL, k, ai, a_row, a_term, b + j, b_row, ci, c_row, adds);
            }
        }
}

/* Floats from one row to the next of a matrix with so many columns in room to work in: whole tiles, and an odd number of
   them, or the rows would share a few places of the nearest cache. */
static int64_t row_length(int64_t columns) { return ((columns + WIDE - 1) / WIDE | 1) * WIDE; }

struct room { /* of one thread: matrices of tokens (length, C) and of their transposes, and of some queries */
    int64_t wide, long_row; /* row lengths for C and for tokens */
    float *k, *v, *k_across, *v_across, *dk, *dv; /* k, v, dk, dv by tokens; the others by components */
    float *q, *out, *dout, *scores, *dscores;
};

static int64_t room_of(int64_t length, int64_t size) {
    int64_t wide = row_length(size), long_row = row_length(length);
    return 4 * length * wide + 2 * size * long_row + QUERIES * (3 * wide + 2 * long_row);
}

/* Floats that attention needs to work in. */
int64_t attention_room(int threads, int64_t length, int64_t size) { return threads * room_of(length, size); }

static struct room furnish(float *floats, int64_t length, int64_t size) {
    struct room room = {.wide = row_length(size), .long_row = row_length(length)};
    memset(floats, 0, sizeof(float) * room_of(length, size)); /* columns beyond the last one count as zeros */
    float **by_tokens[] = {&room.k, &room.v, &room.dk, &room.dv}, **by_components[] = {&room.k_across, &room.v_across};
    for (int i = 0; i < 4; i++, floats += length * room.wide) *by_tokens[i] = floats;
    for (int i = 0; i < 2; i++, floats += size * room.long_row) *by_components[i] = floats;
    float **narrow[] = {&room.q, &room.out, &room.dout}, **broad[] = {&room.scores, &room.dscores};
    for (int i = 0; i < 3; i++, floats += QUERIES * room.wide) *narrow[i] = floats;
    for (int i = 0; i < 2; i++, floats += QUERIES * room.long_row) *broad[i] = floats;
    return room;
}

/* n rows of a head, which lie `row` apart, as floats; and their transpose. */
static void fetch(int64_t n, int64_t size, const act *from, int64_t row, float *to, int64_t to_row) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < size; j++) to[i * to_row + j] = get(from[i * row + j]);
}

static void transpose(int64_t n, int64_t size, const float *from, int64_t row, float *to, int64_t to_row) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < size; j++) to[j * to_row + i] = from[i * row + j];
}

static void deliver(int64_t n, int64_t size, const float *from, int64_t row, act *to, int64_t to_row) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < size; j++) to[i * to_row + j] = put(from[i * row + j]);
}

/* mixed (n, H, C), what the queries take from the values: softmax(q k^T / sqrt(C)) v among earlier tokens. q, k (n, H, C);
   qkv (n, 3, H, C) has the values. log_sums (windows, H, length) of the softmax. floats: attention_room. */
void attention_forward(int threads, struct heads s, const act *q, const act *k, const act *qkv, act *mixed,
                       float *log_sums, float *floats) {
    int64_t T = s.length, C = s.size, row = s.n_heads * C;
    float scale = 1 / sqrtf(C);
#pragma omp parallel num_threads(threads)
    {
        struct room room = furnish(floats + omp_get_thread_num() * room_of(T, C), T, C);
        ROWS(item, s.n / T * s.n_heads) {
            int64_t first = item / s.n_heads * T, h = item % s.n_heads;
            fetch(T, C, k + first * row + h * C, row, room.k, room.wide);
            transpose(T, C, room.k, room.wide, room.k_across, room.long_row);
            fetch(T, C, qkv + first * 3 * row + 2 * row + h * C, 3 * row, room.v, room.wide);
            for (int64_t from = 0; from < T; from += QUERIES) {
                int64_t n = T - from < QUERIES ? T - from : QUERIES, seen = from + n;
                int64_t whole = (seen + WIDE - 1) / WIDE * WIDE, place = (first + from) * row + h * C;
                fetch(n, C, q + place, row, room.q, room.wide);
                multiply(n, whole, C, room.q, room.wide, 1, room.k_across, room.long_row, room.scores, room.long_row, 0);
                for (int64_t i = 0; i < n; i++) {
                    float *score = room.scores + i * room.long_row, most = score[0], total = 0;
                    int64_t own = from + i + 1; /* keys that this query sees */
#pragma omp simd reduction(max : most)
                    for (int64_t j = 0; j < own; j++) most = score[j] > most ? score[j] : most;
#pragma omp simd reduction(+ : total)
                    for (int64_t j = 0; j < own; j++) total += score[j] = exponential((score[j] - most) * scale);
                    float share = 1 / total;
#pragma omp simd
                    for (int64_t j = 0; j < own; j++) score[j] *= share;
                    for (int64_t j = own; j < seen; j++) score[j] = 0;
                    log_sums[item * T + from + i] = most * scale + logf(total);
                }
                multiply(n, (C + WIDE - 1) / WIDE * WIDE, seen, room.scores, room.long_row, 1, room.v, room.wide,
                         room.out, room.wide, 0);
                deliver(n, C, room.out, room.wide, mixed + place, row);
            }
        }
    }
}

/* dq, dk, dv (n, H, C) of dmixed (n, H, C). */
void attention_backward(int threads, struct heads s, const act *q, const act *k, const act *qkv, const float *log_sums,
                        const act *dmixed, act *dq, act *dk, act *dv, float *floats) {
    int64_t T = s.length, C = s.size, row = s.n_heads * C, tiles = (C + WIDE - 1) / WIDE * WIDE;
    float scale = 1 / sqrtf(C);
#pragma omp parallel num_threads(threads)
    {
        struct room room = furnish(floats + omp_get_thread_num() * room_of(T, C), T, C);
        ROWS(item, s.n / T * s.n_heads) {
            int64_t first = item / s.n_heads * T, h = item % s.n_heads, start = first * row + h * C;
            fetch(T, C, k + start, row, room.k, room.wide);
            transpose(T, C, room.k, room.wide, room.k_across, room.long_row);
            fetch(T, C, qkv + first * 3 * row + 2 * row + h * C, 3 * row, room.v, room.wide);
            transpose(T, C, room.v, room.wide, room.v_across, room.long_row);
            memset(room.dk, 0, sizeof(float) * T * room.wide);
            memset(room.dv, 0, sizeof(float) * T * room.wide);
            for (int64_t from = 0; from < T; from += QUERIES) {
                int64_t n = T - from < QUERIES ? T - from : QUERIES, seen = from + n;
                int64_t whole = (seen + WIDE - 1) / WIDE * WIDE, place = start + from * row;
                fetch(n, C, q + place, row, room.q, room.wide);
                fetch(n, C, dmixed + place, row, room.dout, room.wide);
                multiply(n, whole, C, room.q, room.wide, 1, room.k_across, room.long_row, room.scores, room.long_row, 0);
                multiply(n, whole, C, room.dout, room.wide, 1, room.v_across, room.long_row, room.dscores, room.long_row,
                         0);
                for (int64_t i = 0; i < n; i++) {
                    float *score = room.scores + i * room.long_row, *dscore = room.dscores + i * room.long_row;
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
                multiply(n, tiles, seen, room.dscores, room.long_row, 1, room.k, room.wide, room.out, room.wide, 0);
                deliver(n, C, room.out, room.wide, dq + place, row);
                multiply(seen, tiles, n, room.dscores, 1, room.long_row, room.q, room.wide, room.dk, room.wide, 1);
                multiply(seen, tiles, n, room.scores, 1, room.long_row, room.dout, room.wide, room.dv, room.wide, 1);
            }
            deliver(T, C, room.dk, room.wide, dk + start, row);
            deliver(T, C, room.dv, room.wide, dv + start, row);
        }
    }
}

/* -- SwiGLU: hidden (n, f) = silu(gate) * up, with gate and up in the halves of gate_up (n, 2, f) */

void swiglu_forward(int threads, int64_t n, int64_t f, const act *gate_up, act *hidden) {
#pragma omp parallel num_threads(threads)
    ROWS(i, n) {
        const act *gate = gate_up + 2 * i * f, *up = gate + f;
        act *hi = hidden + i * f;
#pragma omp simd
        for (int64_t j = 0; j < f; j++) hi[j] = put(get(gate[j]) / (1 + exponential(-get(gate[j]))) * get(up[j]));
    }
}

/* The gradient of gate_up, in its place. */
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

/* -- Loss */

/* The mean of -log softmax(logits)[target] over n rows; logits (n, v) become its gradient. */
double cross_entropy(int threads, int64_t n, int64_t v, act *logits, const int64_t *targets) {
    double sums[MOST_THREADS] = {0};
#pragma omp parallel num_threads(threads)
    {
        double sum = 0;
        ROWS(i, n) {
            act *row = logits + i * v;
            float most = get(row[0]), total = 0;
            float wanted = get(row[targets[i]]);
#pragma omp simd reduction(max : most)
            for (int64_t j = 0; j < v; j++) most = get(row[j]) > most ? get(row[j]) : most;
#pragma omp simd reduction(+ : total)
            for (int64_t j = 0; j < v; j++) total += exponential(get(row[j]) - most);
            sum += most + logf(total) - wanted;
            float scale = 1 / (total * n);
#pragma omp simd
            for (int64_t j = 0; j < v; j++) row[j] = put(exponential(get(row[j]) - most) * scale);
            row[targets[i]] = put((exponential(wanted - most) / total - 1) / n);
        }
        sums[omp_get_thread_num()] = sum;
    }
    double total = 0;
    for (int t = 0; t < threads; t++) total += sums[t];
    return total / n;
}
