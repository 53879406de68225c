#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <optional>

#include "outrider/api.h"
#include "outrider/nn/attention.h"
#include "outrider/nn/kv_cache.h"

namespace outrider::nn {

/// One pass of n new rows of each sequence through layers whose keys and values are kept. A new row
/// sees all rows before it, or what a tree mask says.
class OUTRIDER_API CachedPass {
 public:
  /// tree_mask [B or 1,n,m] bool, m ≥ n, on `device`: which of the m last rows each new one sees,
  /// its ancestors and itself; the n new rows are the last of these. Rows before the m are seen by
  /// all. Undefined: the new rows follow each other. The cache must outlive the pass.
  CachedPass(KvCache& cache, int64_t new_rows, at::Device device, at::Tensor tree_mask = {});

  /// The same where only the device knows the sequences' lengths [B,1], which may lie behind the
  /// cache's: a pass that can be recorded. Of few rows alone, and in a cache that has room for
  /// them.
  CachedPass(KvCache& cache, int64_t new_rows, at::Tensor lengths, at::Tensor tree_mask);

  /// [1 or B,n] int64: what is before a row, of a tree its ancestors.
  const at::Tensor& positions() const { return positions_; }

  /// The tables of the new rows for the layers below; where the lengths are the device's alone,
  /// those of all positions, which few_rows() finds the rows' in. Not of a rotary embedding that
  /// depends on the length then.
  CosSin tables(RotaryEmbedding& rotary, at::ScalarType type) const;

  /// Writes a layer's new keys and values into the cache and attends to all it holds that a row
  /// may see, with a `window` ≥ 1 only to positions less than that before its own. [B,H,n,D].
  at::Tensor attend(int64_t layer, const QueryKeyValue& rows, std::optional<int64_t> window = {});

  /// Whether the new rows are few enough for that to be tried.
  bool may_be_few() const;
  /// A layer's output [B,n,h] for the new rows in few kernels, where they can go that way: `input`
  /// is what its attention reads, `residual` [B,n,h] what that is added to; tables of tables(), or
  /// like them.
  std::optional<at::Tensor> few_rows(int64_t layer, const FewRowsLayer& parts,
                                     const at::Tensor& input, const at::Tensor& residual,
                                     const CosSin& tables);

 private:
  at::Tensor new_positions() const;
  at::Tensor bias_for(std::optional<int64_t> window, at::ScalarType type);
  at::Tensor visible(std::optional<int64_t> window) const;
  at::Tensor visible_in_tree(const at::Tensor& slots) const;
  at::Tensor positions_of(const at::Tensor& slots) const;
  bool sees_everything() const;
  FewRowsPlace place_of(int64_t layer, const FewRowsLayer& parts, const at::Tensor& rows,
                        const CosSin& tables);

  KvCache& cache_;
  int64_t new_rows_;
  bool is_of_device_ = false;  // the lengths
  at::Tensor tree_mask_;
  at::Tensor lengths_;                                   // [1 or B,1] int64, committed rows
  at::Tensor positions_;                                 // [1 or B,n]
  std::map<std::optional<int64_t>, at::Tensor> biases_;  // by window
};

}  // namespace outrider::nn
