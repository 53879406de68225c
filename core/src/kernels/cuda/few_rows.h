#pragma once

#include <cstdint>

#include "outrider/kernels/launcher.h"

struct CUstream_st;

/// What a few rows need to pass through a decoder layer in bfloat16, on raw pointers: products that
/// read each weight once, and attention to kept keys. Each kernel loads what does not depend on the
/// one before it while that still runs (programmatic dependent launch). Functions return a
/// cudaError_t, 0 for success, and do not wait for the stream.
namespace outrider::cuda {

constexpr int64_t kMostFewRows = 32;  // of a product, and of one sequence's in attention

struct FewRowsPart {
  const void* weight = nullptr;  // [outputs, inner]
  const void* bias = nullptr;    // [outputs] or null
  int64_t outputs = 0;           // a multiple of 8, but of the last part
};

/// y = epilogue(norm(x) [W0; W1; W2]ᵀ + b), summed in float32.
struct FewRowsProduct {
  int64_t rows, inner;         // at most kMostFewRows; a multiple of 32
  const void* x;               // [rows, inner]
  const void* norm = nullptr;  // [inner]: RMSNorm's weight; null: x as it is
  float eps = 0;
  FewRowsPart parts[3];            // without outputs: absent
  bool gated = false;              // y = silu(first part) · second part, two of equal size
  const void* residual = nullptr;  // like y, is added; may be y itself
  void* y;                         // [rows, all outputs], gated [rows, outputs of one]
};
OUTRIDER_LAUNCHER int few_rows_product(const FewRowsProduct& product, CUstream_st* stream);

/// Rotates queries and keys, writes the new keys and values behind the kept ones, and attends.
struct FewRowsAttention {
  int64_t batch, rows;                          // new rows of each sequence, at most kMostFewRows
  int64_t heads, key_heads, head_dim, rotated;  // head_dim 32, 64, 96, 128 or 256
  const void* qkv;                              // [batch, rows, (heads + 2 key_heads) head_dim]
  const void* query_norm = nullptr;             // [head_dim]: RMSNorm of each head; null: none
  const void* key_norm = nullptr;
  float eps = 0;
  const void* cos;  // [table rows, rotated]
  const void* sin;
  const int64_t* positions;  // [position_batch, rows]
  int64_t position_batch;    // 1 or batch
  bool tables_by_position;   // a row's table is that of its position, else of its own number
  void* keys;                // [batch, key_heads, capacity, head_dim]
  void* values;
  int64_t capacity;
  const int64_t* lengths;  // [length_batch]: kept rows
  int64_t length_batch;    // 1 or batch
  const bool* seen =
      nullptr;  // [seen_batch, rows, seen_rows] of the last so many rows; null: causal
  int64_t seen_batch = 1, seen_rows = 0;
  int64_t window = 0;  // positions that a row sees, its own included; 0: all
  void* workspace;     // few_rows_attention_workspace() bytes, zeros before the first use
  void* y;             // [batch, rows, heads · head_dim]
};
OUTRIDER_LAUNCHER int64_t few_rows_attention_workspace(const FewRowsAttention& attention);
OUTRIDER_LAUNCHER int few_rows_attention(const FewRowsAttention& attention, CUstream_st* stream);

/// The likeliest token of each row, the first of equal ones. As the last kernel of a step that goes
/// on by itself it becomes the next step's id.
struct FewRowsChoice {
  int64_t batch, vocabulary;
  const void* logits;            // [batch, vocabulary]
  const int64_t* map = nullptr;  // [vocabulary]: what tokens are called elsewhere; null: as here
  int64_t* ids;                  // [batch]
  int64_t* lengths = nullptr;    // [batch]: one more; null: there is no such step
  int64_t* written = nullptr;    // [batch, capacity]: at `lengths` as it was, the token after it
  int64_t capacity = 0;
};
OUTRIDER_LAUNCHER int few_rows_choice(const FewRowsChoice& choice, CUstream_st* stream);

/// The first kernel of a pass: embeddings [V,h] of ids [batch·rows] into x, and positions: of a row
/// that follows its sequence, or of a tree (`seen` as above, rows = seen_rows) its depth.
struct FewRowsStart {
  int64_t batch, rows, hidden;  // hidden a multiple of 8
  const int64_t* ids;
  const void* embedding;
  const int64_t* lengths;  // [batch]
  const bool* seen = nullptr;
  int64_t seen_batch = 1;
  void* x;             // [batch, rows, hidden]
  int64_t* positions;  // [batch, rows]
};
OUTRIDER_LAUNCHER int few_rows_start(const FewRowsStart& start, CUstream_st* stream);

}  // namespace outrider::cuda
