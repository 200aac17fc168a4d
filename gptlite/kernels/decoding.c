/* One pass of the decoder-only Transformer of model.py over a few tokens, called by packed.py, which lays out the weights.

Decoding a token of a small model is a sequence of matrix-vector products, and its time is the time to read the weights.
The work between the products must cost almost nothing, so no operator is dispatched and threads wait at a spinning
barrier.

Every sum is added in an order that depends only on the shape of the model. A row of a batch therefore gets the same bits
as alone, a token read together with others the same as one read alone, and any number of threads computes the same.

Names as in model.py. A "token" of a pass is an id, the row of the cache that it belongs to, and its position there. */

#include "common.h"

#include <stdatomic.h>
#ifdef __unix__
#include <sched.h>
#endif

#define TILE 3 /* tokens that share one reading of the weights: their twelve sums stay in registers */

/* A reusable barrier: `generation` grows by one each time that all threads have arrived. */
struct barrier {
    _Alignas(64) atomic_int arrived;
    _Alignas(64) atomic_int generation;
};

struct team { /* as thread number `thread` of `size` sees it */
    int thread, size;
    struct barrier *barrier;
};

/* -- Threads */

/* Wait until all threads of the team have arrived. */
static void wait_for_all(struct team team) {
    if (team.size == 1) return;
    struct barrier *barrier = team.barrier;
    int generation = atomic_load_explicit(&barrier->generation, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&barrier->arrived, 1, memory_order_acq_rel) == team.size - 1) {
        atomic_store_explicit(&barrier->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&barrier->generation, generation + 1, memory_order_release);
        return;
    }
    for (int turn = 0; atomic_load_explicit(&barrier->generation, memory_order_acquire) == generation; turn++) {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("yield");
#endif
#ifdef __unix__
        if (turn > 4000) sched_yield(); /* the other thread may be waiting for this core */
#endif
    }
}

/* Numbers from `from` up to, but not including, `to`. */
struct range {
    int64_t from, to;
};

/* The part of n pieces of work that falls to this thread. */
static struct range range_of(int64_t n, struct team team) {
    return (struct range){n * team.thread / team.size, n * (team.thread + 1) / team.size};
}

/* -- Vectors */

INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec v) { *(vec *)p = v; }
INLINE vec choose(ints mask, vec a, vec b) { return (vec)((mask & (ints)a) | (~mask & (ints)b)); }
INLINE vec all(float value) { return value - (vec){0}; }

INLINE float total(vec v) { return ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7])); }

static float dot(const float *a, const float *b, int64_t n) {
    vec sums = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) sums += load(a + i) * load(b + i);
    float sum = total(sums);
    for (; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* e^x to about 2 units in the last place: 2^n e^r with |r| <= ln 2 / 2 and a polynomial (Cephes, Moshier 1992). */
static vec exponential(vec x) {
    x = choose(x < all(-87.0f), all(-87.0f), x);
    x = choose(x > all(88.0f), all(88.0f), x);
    vec n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* rounds to the nearest integer */
    vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    vec p = ((((1.9875691500e-4f * r + 1.3981999507e-3f) * r + 8.3334519073e-3f) * r + 4.1665795894e-2f) * r
             + 1.6666665459e-1f) * r + 5.0000001201e-1f;
    ints power = (__builtin_convertvector(n, ints) + 127) << 23;
    return (p * r * r + r + 1.0f) * (vec)power;
}

static vec sigmoid(vec x) { return 1.0f / (1.0f + exponential(-x)); }

static void normalise(const struct norm *norm, float eps, const float *x, int64_t n, float *y) {
    if (!norm->weight) {
        if (y != x) memcpy(y, x, n * sizeof *y);
    } else if (!norm->bias) {
        float r = 1.0f / sqrtf(dot(x, x, n) / n + eps);
        for (int64_t i = 0; i < n; i++) y[i] = x[i] * r * norm->weight[i];
    } else {
        vec sums = {0};
        int64_t i = 0;
        for (; i + 8 <= n; i += 8) sums += load(x + i);
        float mean = total(sums);
        for (; i < n; i++) mean += x[i];
        mean /= n;
        for (i = 0; i < n; i++) y[i] = x[i] - mean;
        float r = 1.0f / sqrtf(dot(y, y, n) / n + eps);
        for (i = 0; i < n; i++) y[i] = y[i] * r * norm->weight[i] + norm->bias[i];
    }
}

/* -- Matrices */

/* LANES outputs of `n` tokens (at most TILE), whose inputs lie `stride` apart; the weights are read once for all. */
INLINE void multiply_block(const void *weight, int is_int8, int64_t n_in, const float *x, int64_t stride, int n,
                           vec out[TILE][4]) {
    vec sums[TILE][4] = {0};
    for (int64_t k = 0; k < n_in; k++) {
        vec w[4];
        for (int j = 0; j < 4; j++)
            if (is_int8) { /* move the byte to the top of its word, which keeps its sign; `scale` includes 2^-24 */
                ints top = ((const ints *)weight)[k] << (24 - 8 * j) & (int32_t)0xFF000000;
                w[j] = __builtin_convertvector(top, vec);
            } else
                w[j] = load((const float *)weight + k * LANES + 8 * j);
        for (int i = 0; i < n; i++)
            for (int j = 0; j < 4; j++) sums[i][j] += x[i * stride + k] * w[j];
    }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < 4; j++) out[i][j] = sums[i][j];
}

/* y = base + scale * (W x) + bias for n tokens and a range of blocks; base may be NULL for zero. */
static void multiply(const struct linear *linear, struct range blocks, const float *x, int64_t x_stride, int64_t n,
                     const float *base, int64_t base_stride, float *y, int64_t y_stride) {
    int64_t n_in = linear->n_in, size = n_in * LANES * (linear->scale ? 1 : 4);
    for (int64_t block = blocks.from; block < blocks.to; block++) {
        const void *weight = (const char *)linear->weight + block * size;
        const float *inputs = x + (linear->first ? linear->first[block] : 0);
        for (int64_t first = 0; first < n; first += TILE) {
            const float *in = inputs + first * x_stride;
            int now = n - first < TILE ? n - first : TILE;
            vec out[TILE][4];
            switch (linear->scale ? -now : now) {
            case 1: multiply_block(weight, 0, n_in, in, x_stride, 1, out); break;
            case 2: multiply_block(weight, 0, n_in, in, x_stride, 2, out); break;
            case 3: multiply_block(weight, 0, n_in, in, x_stride, 3, out); break;
            case -1: multiply_block(weight, 1, n_in, in, x_stride, 1, out); break;
            case -2: multiply_block(weight, 1, n_in, in, x_stride, 2, out); break;
            case -3: multiply_block(weight, 1, n_in, in, x_stride, 3, out); break;
            }
            for (int i = 0; i < now; i++)
                for (int j = 0; j < 4; j++) {
                    int64_t at = block * LANES + 8 * j;
                    vec v = out[i][j];
                    if (linear->scale) v *= load(linear->scale + at);
                    if (linear->bias) v += load(linear->bias + at);
                    if (base) v += load(base + (first + i) * base_stride + at);
                    store(y + (first + i) * y_stride + at, v);
                }
        }
    }
}

/* -- Attention */

static void rotate(const struct model *m, int64_t position, float *x) {
    if (!m->cos) return;
    int64_t half = m->head_dim / 2;
    const float *cos = m->cos + position * m->head_dim, *sin = m->sin + position * m->head_dim;
    for (int64_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cos[i] - b * sin[i];
        x[i + half] = b * cos[i + half] + a * sin[i + half];
    }
}

/* out (C,) = softmax(q k^T / sqrt(C)) v over `n` keys and values (n, C) */
static void attend(const float *q, const float *keys, const float *values, int64_t n, int64_t head_dim, float *scores,
                   float *out) {
    float scale = 1.0f / sqrtf(head_dim), largest = -INFINITY;
    for (int64_t s = 0; s < n; s++) {
        scores[s] = dot(q, keys + s * head_dim, head_dim) * scale;
        largest = scores[s] > largest ? scores[s] : largest;
    }
    for (int64_t s = 0; s < n; s += 8) store(scores + s, exponential(load(scores + s) - largest));
    for (int64_t s = n; s % 8; s++) scores[s] = 0;
    vec sums = {0};
    for (int64_t s = 0; s < n; s += 8) sums += load(scores + s);
    float inverse = 1.0f / total(sums);
    int64_t c = 0;
    for (; c + LANES <= head_dim; c += LANES) {
        vec mixed[4] = {0};
        for (int64_t s = 0; s < n; s++)
            for (int j = 0; j < 4; j++) mixed[j] += scores[s] * load(values + s * head_dim + c + 8 * j);
        for (int j = 0; j < 4; j++) store(out + c + 8 * j, mixed[j] * inverse);
    }
    for (; c < head_dim; c++) {
        float mixed = 0;
        for (int64_t s = 0; s < n; s++) mixed += scores[s] * values[s * head_dim + c];
        out[c] = mixed * inverse;
    }
}

/* -- The pass */

static void activate(const struct model *m, int64_t block, int64_t n, const float *gated, int64_t gated_stride,
                     float *hidden, int64_t hidden_stride) {
    for (int64_t i = 0; i < n; i++)
        for (int j = 0; j < LANES; j += 8) {
            float *to = hidden + i * hidden_stride + block * LANES + j;
            const float *from = gated + i * gated_stride + (m->activation == 0 ? 2 : 1) * block * LANES + j;
            vec g = load(from);
            if (m->activation == 0)
                store(to, g * sigmoid(g) * load(from + LANES));
            else if (m->activation == 1) /* 1 + tanh(u) = 2 sigmoid(2 u) */
                store(to, g * sigmoid(1.5957691216f * (g + 0.044715f * g * g * g)));
            else
                store(to, choose(g < all(0), all(0), g));
        }
}

static int64_t whole_blocks(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

static void compute(const struct model *m, const struct pass *p, struct team team) {
    int64_t n = p->n, dim = m->dim, C = m->head_dim, H = m->n_heads, K = m->n_kv_heads;
    int64_t x_stride = whole_blocks(dim), qkv_stride = LANES * m->layers->qkv.n_blocks, mixed_stride = H * C;
    int64_t gated_stride = LANES * m->layers->up.n_blocks, hidden_stride = whole_blocks(m->hidden_dim);
    int64_t n_gates = hidden_stride / LANES, paired = m->activation == 0 ? 2 : 1;
    float *normed = p->normed + team.thread * n * x_stride, *scores = p->scores + team.thread * (p->length + 8);
    const float *base = m->adds_to_norm ? normed : p->x;

    struct range own = range_of(n, team);
    for (int64_t i = own.from; i < own.to; i++) {
        const float *embed = m->embed + p->ids[i] * dim;
        float *x = p->x + i * x_stride;
        for (int64_t d = 0; d < dim; d++) x[d] = embed[d] * m->embed_scale;
        if (m->position_table)
            for (int64_t d = 0; d < dim; d++) x[d] += m->position_table[p->positions[i] * dim + d];
    }
    wait_for_all(team);

    for (int64_t l = 0; l < m->n_layers; l++) {
        const struct layer *layer = m->layers + l;

        for (int64_t i = 0; i < n; i++)
            normalise(&layer->first, m->eps, p->x + i * x_stride, dim, normed + i * x_stride);
        multiply(&layer->qkv, range_of(layer->qkv.n_blocks, team), normed, x_stride, n, NULL, 0, p->qkv,
                 qkv_stride);
        wait_for_all(team);

        own = range_of(n * K, team);
        for (int64_t unit = own.from; unit < own.to; unit++) {
            int64_t i = unit / K, head = unit % K;
            int64_t at = (((l * p->n_rows + p->rows[i]) * K + head) * p->length + p->positions[i]) * C;
            float *k = p->qkv + i * qkv_stride + (H + head) * C;
            normalise(&layer->key, m->eps, k, C, k);
            rotate(m, p->positions[i], k);
            memcpy(p->keys + at, k, C * sizeof *k);
            memcpy(p->values + at, k + K * C, C * sizeof *k);
        }
        wait_for_all(team);

        own = range_of(n * H, team);
        for (int64_t unit = own.from; unit < own.to; unit++) {
            int64_t i = unit / H, head = unit % H;
            int64_t at = ((l * p->n_rows + p->rows[i]) * K + head / (H / K)) * p->length * C;
            float *q = p->qkv + i * qkv_stride + head * C;
            normalise(&layer->query, m->eps, q, C, q);
            rotate(m, p->positions[i], q);
            attend(q, p->keys + at, p->values + at, p->positions[i] + 1, C, scores, p->mixed + i * mixed_stride + head * C);
        }
        wait_for_all(team);

        multiply(&layer->out, range_of(layer->out.n_blocks, team), p->mixed, mixed_stride, n, base,
                 x_stride, p->x, x_stride);
        wait_for_all(team);

        for (int64_t i = 0; i < n; i++)
            normalise(&layer->second, m->eps, p->x + i * x_stride, dim, normed + i * x_stride);
        own = range_of(n_gates, team);
        for (int64_t gate = own.from; gate < own.to; gate++) {
            multiply(&layer->up, (struct range){gate * paired, (gate + 1) * paired}, normed, x_stride, n, NULL, 0,
                     p->gated, gated_stride);
            activate(m, gate, n, p->gated, gated_stride, p->hidden, hidden_stride);
        }
        wait_for_all(team);

        multiply(&layer->down, range_of(layer->down.n_blocks, team), p->hidden, hidden_stride, n, base,
                 x_stride, p->x, x_stride);
        wait_for_all(team);
    }

    for (int64_t i = 0; i < p->n_wanted; i++)
        normalise(&m->last, m->eps, p->x + p->wanted[i] * x_stride, dim, normed + i * x_stride);
    multiply(&m->head, range_of(m->head.n_blocks, team), normed, x_stride, p->n_wanted, NULL, 0,
             p->logits, LANES * m->head.n_blocks);
}

/* Returns 0, or 1 when an id is not in the vocabulary or a position is beyond the cache; then nothing was computed. */
int forward(const struct model *model, const struct pass *pass) {
    for (int64_t i = 0; i < pass->n; i++)
        if (pass->ids[i] < 0 || pass->ids[i] >= model->vocab_size || pass->positions[i] >= pass->length) return 1;
    struct barrier barrier = {0};
#pragma omp parallel num_threads(pass->n_threads)
    compute(model, pass, (struct team){omp_get_thread_num(), omp_get_num_threads(), &barrier});
    return 0;
}
