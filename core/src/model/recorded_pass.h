#pragma once

#include <memory>
#include <vector>

#include "outrider/kernels/recorded_work.h"
#include "outrider/model/base_outputs.h"
#include "outrider/model/base_pass.h"
#include "outrider/model/decoder_only_lm.h"
#include "outrider/nn/few_rows.h"
#include "outrider/nn/kv_cache.h"

namespace outrider {

/// The form of a pass of few rows: B sequences, n rows each.
struct PassForm {
  int64_t sequences, rows;
  bool is_tree = false;
};

/// Passes of one form of few rows through a decoder stack: kernels that are recorded once, on
/// buffers that keep their places. A pass's outputs are those buffers, which the next one
/// overwrites.
class RecordedPass {
 public:
  /// The one of this form, kept with the cache, which gets room for `room` new rows; null where
  /// stack and cache cannot go this way.
  static std::shared_ptr<RecordedPass> of(const PassForm& form, int64_t room, nn::KvCache& cache,
                                          DecoderStack& stack);
  /// Whether this pass can go the way of its form.
  static bool is_for(const BasePass& pass);

  /// But the head, and what the request does not ask for.
  BaseOutputs run(const BasePass& pass);
  /// As CausalLM::continue_greedily(), of the form with one row.
  at::Tensor continue_greedily(const at::Tensor& ids, const at::Tensor& head, int64_t steps);

 private:
  static std::shared_ptr<RecordedPass> made(const PassForm& form, nn::KvCache& cache,
                                            DecoderStack& stack);
  RecordedPass(const PassForm& form, nn::KvCache& cache, DecoderStack& stack,
               std::vector<nn::FewRowsLayer> layers);
  void take(const at::Tensor& ids);
  void launch_pass() const;
  void launch_step(const at::Tensor& head) const;
  nn::FewRowsPlace place_of(size_t layer) const;

  nn::KvCache& cache_;
  std::vector<int64_t> device_lengths_;  // what lengths_ holds; empty before the first pass
  DecoderStack& stack_;
  std::vector<nn::FewRowsLayer> layers_;
  at::Tensor ids_, lengths_, positions_, seen_;
  nn::CosSin tables_;
  std::vector<nn::KvCache::Rows> slots_;
  nn::FewRowsBuffers buffers_;
  at::Tensor embeddings_;
  std::vector<at::Tensor> outputs_;  // of each layer
  at::Tensor logits_, written_;      // of steps that go on by themselves
  kernels::RecordedWork pass_, step_, steps_;
};

}  // namespace outrider
