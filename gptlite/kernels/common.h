/* What decoding.c, fused.c and Python must agree on: constants, structures, and the functions that Python calls.

header.py reads this file and makes the ctypes structures and argument types from it, so each layout is written once. It
understands constants (#define NAME NUMBER), structures with one declaration per line, and prototypes that end in ");".
Each library exports `kernel_abi`, the digest of its sources, and the sizes of these structures as the compiler laid them
out; Python refuses a library in which either differs from its own. */

#ifndef GPTLITE_COMMON_H
#define GPTLITE_COMMON_H

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

#define LANES 32         /* outputs of a matrix that decoding.c computes side by side: four sums of eight floats */
#define MOST_SHARES 64 /* of a teacher's probabilities for each token */
#define MOST_THREADS 256 /* of fused.c */
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(32), aligned(4), may_alias));

#ifdef BF16
typedef uint16_t act; /* the type of matrix products in fused.c: bf16, the upper half of a float */
#else
typedef float act;
#endif

/* -- decoding.c */

/* Without a weight: no norm. Without a bias: RMSNorm. With both: LayerNorm. */
struct norm {
    const float *weight, *bias;
};

/* y = scale (W x) + bias. Without scales W is (n_blocks, n_in, LANES) floats. With scales, one for each output, W holds
   8-bit numbers, four to a word: it is (n_blocks, n_in, 8) words whose byte j belongs to output 8 j + index of the word.
   A matrix that is zero outside of some blocks on its diagonal has only these: n_in is the width of one, and `first` says
   for each block of outputs which of the inputs is the first that they read; NULL: all read the same, from 0 on. */
struct linear {
    int64_t n_in, n_blocks;
    const void *weight;
    const float *scale, *bias;
    const int32_t *first;
};

/* Norms before attention, before the feed-forward layer, of queries and of keys. In `up` of SwiGLU, blocks of gate and up
   alternate. */
struct layer {
    struct norm first, second, query, key;
    struct linear qkv, out, up, down;
};

/* activation: 0 SwiGLU, 1 GELU, 2 ReLU. adds_to_norm: sub-layers add to the normalised stream, as in the paper of 2017. */
struct model {
    int64_t dim, n_layers, n_heads, n_kv_heads, head_dim, hidden_dim, vocab_size;
    int64_t activation, adds_to_norm;
    float eps, embed_scale;
    const float *embed, *position_table, *cos, *sin;
    const struct layer *layers;
    struct norm last;
    struct linear head;
};

/* One pass over n tokens: ids, cache rows and positions (n,); the n_wanted tokens whose logits are computed; the key-value
   cache (layers, n_rows, K, length, C); buffers (n, outputs of the matrix in whole blocks); for each thread `normed`
   (n, D in whole blocks) and `scores` (length + 8); logits (n_wanted, V in whole blocks). */
struct pass {
    int64_t n, n_wanted, n_threads;
    const int32_t *ids, *rows, *positions, *wanted;
    int64_t n_rows, length;
    float *keys, *values;
    float *x, *qkv, *mixed, *gated, *hidden;
    float *normed, *scores;
    float *logits;
};

int forward(const struct model *model, const struct pass *pass);

/* -- fused.c */

/* The rate, and a key that decides what is dropped; every call has another key. */
struct dropout {
    float rate;
    uint32_t first, second;
};

/* n rows in windows of `length` tokens, H heads of C = `size` components; cos and sin (length, C); eps of the norm. */
struct heads {
    int64_t n, length, n_heads, size;
    const float *cos, *sin;
    float eps;
};

void drop(int threads, int64_t n, struct dropout drop, float *x);
void add_and_norm(int threads, int64_t n, int64_t d, struct dropout drop, float eps, const float *weight,
                  const float *x, const act *y, float *out, act *normed, float *inverse);
void norm_backward(int threads, int64_t n, int64_t d, struct dropout drop, const float *weight, const float *x,
                   const float *inverse, const act *dnormed, float *dx, act *dropped, float *dweight,
                   float *workspace);
void heads_forward(int threads, struct heads s, const float *q_weight, const float *k_weight, const act *qkv, act *q,
                   act *k, float *inverse);
void heads_backward(int threads, struct heads s, const float *q_weight, const float *k_weight, const act *qkv,
                    const float *inverse, const act *dq, const act *dk, const act *dv, act *dqkv, float *dq_weight,
                    float *dk_weight, float *workspace);
int64_t attention_workspace_size(int threads, int64_t length, int64_t size);
void attention_forward(int threads, struct heads s, const act *q, const act *k, const act *qkv, act *mixed,
                       float *log_sums, float *workspace);
void attention_backward(int threads, struct heads s, const act *q, const act *k, const act *qkv, const float *log_sums,
                        const act *dmixed, act *dq, act *dk, act *dv, float *workspace);
void swiglu_forward(int threads, int64_t n, int64_t f, const act *gate_up, act *hidden);
void swiglu_backward(int threads, int64_t n, int64_t f, act *gate_up, const act *dhidden);
void quantize_rows(int threads, int64_t n, int64_t d, const float *x, int8_t *numbers, float *scales);
void quantize_columns(int threads, int64_t n, int64_t d, const float *x, int8_t *numbers, float *scales);
double fold_scales(int threads, int64_t n, int64_t d, const int8_t *numbers, const float *scales, const float *others,
                   int8_t *out);
void scale_all(int threads, int64_t n, const int32_t *sums, float scale, float *out);
void swiglu_int8_forward(int threads, int64_t n, int64_t f, const int32_t *sums, const float *rows, const float *columns,
                         int8_t *numbers, float *scales, float *workspace);
void swiglu_int8_backward(int threads, int64_t n, int64_t f, const int32_t *sums, const float *rows, const float *columns,
                          const int32_t *dsums, const float *drows, const float *dcolumns, int8_t *numbers,
                          float *scales, float *workspace);
void scale_sums(int threads, int64_t n, int64_t d, const int32_t *sums, const float *rows, const float *columns,
                float *out);
double cross_entropy(int threads, int64_t n, int64_t v, act *logits, const int64_t *targets);
double distilled_cross_entropy(int threads, int64_t n, int64_t v, act *logits, const int64_t *targets, int64_t k,
                               const int64_t *ids, const float *shares, float weight);
void next_token(int threads, int64_t n, int64_t v, act *logits, const int64_t *targets, int64_t m, const float *sets,
                double *surprisal, double *entropy, int64_t *rank, double *set_surprisal);

/* -- What is checked when a library is loaded; the structures in the order in which they stand above */

#ifndef ABI
#define ABI none
#endif
#define QUOTED(name) #name
#define TEXT_OF(name) QUOTED(name)

const char kernel_abi[] = TEXT_OF(ABI);
const int64_t kernel_sizes[] = {sizeof(struct norm), sizeof(struct linear),  sizeof(struct layer), sizeof(struct model),
                                sizeof(struct pass), sizeof(struct dropout), sizeof(struct heads)};
#ifdef _OPENMP
const int64_t kernel_is_parallel = 1; /* does it compute with several threads? */
#else
const int64_t kernel_is_parallel = 0;
#endif

#endif
