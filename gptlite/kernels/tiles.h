/* Products of small matrices for fused.c, in tiles whose sums stay in registers. */

#ifndef GPTLITE_TILES_H
#define GPTLITE_TILES_H

#include "common.h"

#ifdef __AVX512F__
#define TILE_LANES 16
#else
#define TILE_LANES 8
#endif
#define TILE_ROWS 6 /* rows and columns of a product that are computed side by side: twelve vectors of sums */
#define TILE_COLUMNS (2 * TILE_LANES)

typedef float lanes __attribute__((vector_size(4 * TILE_LANES), aligned(4), may_alias));

/* TILE_ROWS or fewer rows and TILE_COLUMNS columns of C (+)= A B, with k terms in each sum. */
INLINE void tile(const int rows, int64_t k, const float *a, int64_t a_row, int64_t a_term, const float *b, int64_t b_row,
                 float *c, int64_t c_row, int adds) {
    lanes sum[TILE_ROWS][2] = {{{0}}};
    for (int64_t p = 0; p < k; p++) {
        const float *row = b + p * b_row;
        lanes left = *(const lanes *)row, right = *(const lanes *)(row + TILE_LANES);
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
            lanes *to = (lanes *)(c + r * c_row + TILE_LANES * side);
            if (adds) sum[r][side] += *to;
            *to = sum[r][side];
        }
}

/* C (m, n) = A (m, k) B (k, n), or C += A B where it `adds`; n is a multiple of TILE_COLUMNS. The rows of A lie a_row
   apart and its terms a_term, so A may be a transposed matrix. */
static void multiply(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_row, int64_t a_term, const float *b,
                     int64_t b_row, float *c, int64_t c_row, int adds) {
    for (int64_t j = 0; j < n; j += TILE_COLUMNS)
        for (int64_t i = 0; i < m; i += TILE_ROWS) {
            const float *ai = a + i * a_row;
            float *ci = c + i * c_row + j;
            switch (m - i) {
                case 1: tile(1, k, ai, a_row, a_term, b + j, b_row, ci, c_row, adds); break;
                case 2: tile(2, k, ai, a_row, a_term, b + j, b_row, ci, c_row, adds); break;
                case 3: tile(3, k, ai, a_row, a_term, b + j, b_row, ci, c_row, adds); break;
                case 4: tile(4, k, ai, a_row, a_term, b + j, b_row, ci, c_row, adds); break;
                case 5: tile(5, k, ai, a_row, a_term, b + j, b_row, ci, c_row, adds); break;
                default: tile(TILE_ROWS, k, ai, a_row, a_term, b + j, b_row, ci, c_row, adds);
            }
        }
}

/* Floats from one row of a workspace matrix to the next: whole tiles, and an odd number of them, because rows a power of
   two apart would compete for the same lines of the cache. */
static int64_t row_length(int64_t columns) { return ((columns + TILE_COLUMNS - 1) / TILE_COLUMNS | 1) * TILE_COLUMNS; }

#endif
