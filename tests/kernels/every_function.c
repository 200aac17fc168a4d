/* Calls every function of fused.c, or of decoding.c with -DDECODING, on numbers that a formula makes, and prints what
comes out, one number per line: test_arm.py compares the lines of programs for different processors. */

#include <stdio.h>
#include <stdlib.h>

#ifdef DECODING
#include "decoding.c"
#else
#include "fused.c"
#endif

static uint32_t state = 1;

static float number(void) { /* in -1 to 1 */
    state = state * 1664525u + 1013904223u;
    return (float)(int32_t)(state >> 8) / 8388608.0f - 1.0f;
}

static void *zeros(int64_t n, size_t size) { return calloc(n + 64, size); }

static float *floats(int64_t n, float from, float scale) {
    float *x = zeros(n, sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = from + scale * number();
    return x;
}

static void show(const char *name, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) printf("%s[%lld] %.9g\n", name, (long long)i, x[i]);
}

#ifdef DECODING

#define DIM 40
#define HEADS 4
#define KV_HEADS 2
#define SIZE 10
#define HIDDEN 70
#define VOCAB 45
#define LENGTH 9
#define LAYERS 2
#define TOKENS 7
#define BLOCKS(n) (((n) + LANES - 1) / LANES)

static struct linear matrix(int64_t n_in, int64_t n_out, int is_int8, int has_bias) {
    int64_t blocks = BLOCKS(n_out);
    struct linear made = {.n_in = n_in, .n_blocks = blocks};
    if (is_int8) {
        int32_t *words = zeros(blocks * n_in * 8, 4);
        for (int64_t i = 0; i < blocks * n_in * 8; i++) words[i] = (int32_t)(number() * 2147483000.0f);
        made.weight = words;
        made.scale = floats(blocks * LANES, 0, 1e-11f);
    } else
        made.weight = floats(blocks * n_in * LANES, 0, 0.2f);
    if (has_bias) made.bias = floats(blocks * LANES, 0, 0.1f);
    return made;
}

static void run(int activation, int is_int8, int has_bias, int is_rotary, int is_post_norm) {
    int64_t mixed = HEADS * SIZE, width = (HEADS + 2 * KV_HEADS) * SIZE, wide = BLOCKS(DIM) * LANES;
    int64_t paired = activation == 0 ? 2 : 1, gated = paired * BLOCKS(HIDDEN) * LANES;
    struct norm plain = {floats(DIM, 1, 0.1f), has_bias ? floats(DIM, 0, 0.1f) : NULL}, none = {NULL, NULL};
    struct norm of_heads = {floats(SIZE, 1, 0.1f), NULL};
    struct layer layers[LAYERS];
    for (int l = 0; l < LAYERS; l++) {
        layers[l].first = l || !is_post_norm ? plain : none;
        layers[l].second = plain;
        layers[l].query = layers[l].key = is_rotary ? of_heads : none;
        layers[l].qkv = matrix(DIM, width, is_int8, has_bias);
        layers[l].out = matrix(mixed, DIM, is_int8, has_bias);
        layers[l].up = matrix(DIM, paired * BLOCKS(HIDDEN) * LANES, is_int8, has_bias);
        layers[l].down = matrix(HIDDEN, DIM, is_int8, has_bias);
    }
    struct model model = {
        .dim = DIM, .n_layers = LAYERS, .n_heads = HEADS, .n_kv_heads = KV_HEADS, .head_dim = SIZE,
        .hidden_dim = HIDDEN, .vocab_size = VOCAB, .activation = activation, .adds_to_norm = is_post_norm,
        .eps = 1e-5f, .embed_scale = 1.5f, .embed = floats(VOCAB * DIM, 0, 1), .layers = layers, .last = plain,
        .head = matrix(DIM, VOCAB, is_int8, 0),
    };
    if (is_rotary) {
        model.cos = floats(LENGTH * SIZE, 0, 1);
        model.sin = floats(LENGTH * SIZE, 0, 1);
    } else
        model.position_table = floats(LENGTH * DIM, 0, 1);
    int32_t ids[TOKENS] = {3, 44, 0, 7, 7, 12, 1}, rows[TOKENS] = {0, 0, 0, 0, 1, 1, 1};
    int32_t positions[TOKENS] = {0, 1, 2, 3, 0, 1, 2}, wanted[2] = {3, 6};
    struct pass pass = {
        .n = TOKENS, .n_wanted = 2, .n_threads = 1, .ids = ids, .rows = rows, .positions = positions, .wanted = wanted,
        .n_rows = 2, .length = LENGTH, .keys = zeros(LAYERS * 2 * KV_HEADS * LENGTH * SIZE, 4),
        .values = zeros(LAYERS * 2 * KV_HEADS * LENGTH * SIZE, 4), .x = zeros(TOKENS * wide, 4),
        .qkv = zeros(TOKENS * BLOCKS(width) * LANES, 4), .mixed = zeros(TOKENS * mixed, 4),
        .gated = zeros(TOKENS * gated, 4), .hidden = zeros(TOKENS * BLOCKS(HIDDEN) * LANES, 4),
        .normed = zeros(TOKENS * wide, 4), .scores = zeros(LENGTH + 8, 4),
        .logits = zeros(2 * BLOCKS(VOCAB) * LANES, 4),
    };
    if (forward(&model, &pass)) exit(1);
    for (int i = 0; i < 2; i++) show("logits", pass.logits + i * BLOCKS(VOCAB) * LANES, VOCAB);
}

int main(void) {
    run(0, 0, 0, 1, 0);
    run(1, 0, 1, 0, 0);
    run(2, 0, 1, 0, 1);
    run(0, 1, 0, 1, 0);
    return 0;
}

#else

#define N 60 /* tokens, in windows of LENGTH */
#define LENGTH 30
#define HEADS 3
#define SIZE 10
#define DIM 30
#define HIDDEN 44
#define VOCAB 50
#define SHARES 4

static act *acts(int64_t n, float scale) {
    act *x = zeros(n, sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = put(scale * number());
    return x;
}

static void show_acts(const char *name, const act *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) printf("%s[%lld] %.9g\n", name, (long long)i, get(x[i]));
}

static void show_bytes(const char *name, const int8_t *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) printf("%s[%lld] %d\n", name, (long long)i, x[i]);
}

int main(void) {
    struct dropout none = {0}, some = {0.25f, 12345, 678910};
    int64_t width = HEADS * SIZE;

    float *dropped = floats(N, 0, 1);
    drop(1, N, some, dropped);
    show("drop", dropped, N);

    float *x = floats(N * DIM, 0, 1), *weight = floats(DIM, 1, 0.2f), *out = zeros(N * DIM, 4), *inverse = zeros(N, 4);
    act *y = acts(N * DIM, 1), *normed = acts(N * DIM, 1);
    for (int with = 0; with < 2; with++) {
        add_and_norm(1, N, DIM, with ? some : none, 1e-5f, weight, x, y, out, normed, inverse);
        show("sum", out, N * DIM);
        show_acts("normed", normed, N * DIM);
        float *dx = floats(N * DIM, 0, 1), *dweight = zeros(DIM, 4), *workspace = zeros(2 * DIM, 4);
        act *dy = acts(N * DIM, 1);
        norm_backward(1, N, DIM, with ? some : none, weight, out, inverse, normed, dx, dy, dweight, workspace);
        show("dx", dx, N * DIM);
        show_acts("dy", dy, N * DIM);
        show("dweight", dweight, DIM);
    }

    struct heads s = {N, LENGTH, HEADS, SIZE, floats(LENGTH * SIZE, 0, 1), floats(LENGTH * SIZE, 0, 1), 1e-5f};
    act *qkv = acts(3 * N * width, 1), *q = acts(N * width, 1), *k = acts(N * width, 1);
    float *q_weight = floats(SIZE, 1, 0.2f), *k_weight = floats(SIZE, 1, 0.2f), *of_heads = zeros(2 * N * HEADS, 4);
    heads_forward(1, s, q_weight, k_weight, qkv, q, k, of_heads);
    show_acts("q", q, N * width);
    show_acts("k", k, N * width);

    float *floats_of_attention = zeros(attention_workspace_size(1, LENGTH, SIZE), 4), *log_sums = zeros(N * HEADS, 4);
    act *mixed = acts(N * width, 1), *dmixed = acts(N * width, 1);
    act *dq = acts(N * width, 1), *dk = acts(N * width, 1), *dv = acts(N * width, 1);
    attention_forward(1, s, q, k, qkv, mixed, log_sums, floats_of_attention);
    show_acts("mixed", mixed, N * width);
    show("log_sums", log_sums, N * HEADS);
    attention_backward(1, s, q, k, qkv, log_sums, dmixed, dq, dk, dv, floats_of_attention);
    show_acts("dq", dq, N * width);
    show_acts("dk", dk, N * width);
    show_acts("dv", dv, N * width);

    act *dqkv = acts(3 * N * width, 1);
    float *dq_weight = zeros(SIZE, 4), *dk_weight = zeros(SIZE, 4), *workspace = zeros(3 * SIZE, 4);
    heads_backward(1, s, q_weight, k_weight, qkv, of_heads, dq, dk, dv, dqkv, dq_weight, dk_weight, workspace);
    show_acts("dqkv", dqkv, 3 * N * width);
    show("dq_weight", dq_weight, SIZE);
    show("dk_weight", dk_weight, SIZE);

    act *gate_up = acts(2 * N * HIDDEN, 4), *hidden = acts(N * HIDDEN, 1), *dhidden = acts(N * HIDDEN, 1);
    swiglu_forward(1, N, HIDDEN, gate_up, hidden);
    show_acts("hidden", hidden, N * HIDDEN);
    swiglu_backward(1, N, HIDDEN, gate_up, dhidden);
    show_acts("gate_up", gate_up, 2 * N * HIDDEN);

    /* Products of integers. Of SwiGLU the scales alone are shown: rounding may move a number by one. */
    int8_t *numbers = zeros(N * 2 * HIDDEN, 1), *folded = zeros(N * DIM, 1);
    float *of_rows = zeros(N, 4), *of_columns = zeros(2 * HIDDEN, 4), *scaled = zeros(N * DIM, 4);
    int32_t *sums = zeros(N * 2 * HIDDEN, 4), *dsums = zeros(N * HIDDEN, 4);
    for (int64_t i = 0; i < N * 2 * HIDDEN; i++) sums[i] = (int32_t)(100000 * number());
    for (int64_t i = 0; i < N * HIDDEN; i++) dsums[i] = (int32_t)(100000 * number());
    quantize_columns(1, N, DIM, x, numbers, of_columns);
    show_bytes("by_column", numbers, N * DIM);
    show("of_columns", of_columns, DIM);
    quantize_rows(1, N, DIM, x, numbers, of_rows);
    show_bytes("by_row", numbers, N * DIM);
    show("of_rows", of_rows, N);
    printf("largest[0] %.9g\n", fold_scales(1, N, DIM, numbers, of_rows, floats(N, 2, 0.5f), folded));
    show_bytes("folded", folded, N * DIM);
    scale_sums(1, N, DIM, sums, of_rows, of_columns, scaled);
    show("scaled", scaled, N * DIM);
    scale_all(1, N * DIM, sums, 1e-5f, scaled);
    show("scaled_all", scaled, N * DIM);
    float *rows = floats(N, 2e-5f, 1e-5f), *columns = floats(2 * HIDDEN, 1, 0.5f), *row = zeros(2 * HIDDEN, 4);
    swiglu_int8_forward(1, N, HIDDEN, sums, rows, columns, numbers, of_rows, row);
    show("of_hidden", of_rows, N);
    swiglu_int8_backward(1, N, HIDDEN, sums, rows, columns, dsums, rows, columns, numbers, of_rows, row);
    show("of_dgate_up", of_rows, N);

    act *logits = acts(N * VOCAB, 5), *again = acts(N * VOCAB, 5);
    int64_t targets[N], ids[N * SHARES];
    float *shares = floats(N * SHARES, 0.1f, 0.05f);
    for (int64_t i = 0; i < N; i++) targets[i] = i * 7 % VOCAB;
    for (int64_t i = 0; i < N * SHARES; i++) ids[i] = (i / SHARES + 11 * (i % SHARES)) % VOCAB;
    printf("loss[0] %.9g\n", cross_entropy(1, N, VOCAB, logits, targets));
    show_acts("dlogits", logits, N * VOCAB);
    printf("loss[1] %.9g\n", distilled_cross_entropy(1, N, VOCAB, again, targets, SHARES, ids, shares, 0.3f));
    show_acts("dlogits", again, N * VOCAB);

    act *read = acts(N * VOCAB, 5);
    float *sets = floats(2 * VOCAB, 0, 1);
    for (int64_t i = 0; i < 2 * VOCAB; i++) sets[i] = sets[i] > 0;
    double surprisal[N], entropy[N], of_sets[2 * N];
    int64_t rank[N];
    next_token(1, N, VOCAB, read, targets, 2, sets, surprisal, entropy, rank, of_sets);
    for (int64_t i = 0; i < N; i++) printf("surprisal[%lld] %.9g\n", (long long)i, surprisal[i]);
    for (int64_t i = 0; i < N; i++) printf("entropy[%lld] %.9g\n", (long long)i, entropy[i]);
    for (int64_t i = 0; i < N; i++) printf("rank[%lld] %lld\n", (long long)i, (long long)rank[i]);
    for (int64_t i = 0; i < 2 * N; i++) printf("sets[%lld] %.9g\n", (long long)i, of_sets[i]);
    return 0;
}

#endif
