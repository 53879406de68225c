#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>

#include "outrider/api.h"
#include "outrider/model/sequence_part.h"
#include "outrider/ops/documents.h"
#include "outrider/ops/linear_input.h"

namespace outrider {

/// Called with (name, tensor) for intermediate results that someone wants to see; see docs/cli.md,
/// forward.
using TensorRecorder = std::function<void(const std::string&, const at::Tensor&)>;

/// A batch of sequences. All tensors are [B,S]; optional ones may be undefined.
struct TrainBatch {
  at::Tensor input_ids;       // int64
  at::Tensor attention_mask;  // 1 = a token, 0 = padding; undefined: all ones
  at::Tensor position_ids;    // undefined: 0 … S-1 of each document
  at::Tensor loss_mask;       // 1 = this token is a training target
  at::Tensor labels;          // labels[t] is the token after position t, or -100
  at::Tensor document_ids;    // of rows that hold several: a document is a run of one id
  /// [B,S] bool, false = padding that must not be attended to; undefined where right padding makes
  /// it unnecessary under causal attention.
  at::Tensor key_mask;
  /// The same, as attention takes it; prepared_batch() makes it of the ids where it is not given.
  std::optional<ops::Documents> documents;
  /// Tensors that single algorithms read, by name, such as eagle's "mix.rand.step_0".
  std::map<std::string, at::Tensor> extras;
  /// That token_targets() marks so many tokens or fewer, where the host knows it without asking a
  /// device: a loss then leaves out rows that do not count.
  std::optional<int64_t> most_targets;
  /// Measure acceptance against the base's whole vocabulary, also where a draft knows a part of it.
  bool measure_acceptance = false;
  /// What drafts compute again in the backward pass, to save memory.
  ops::Recompute recompute = ops::Recompute::kNothing;
  /// With kElementwise: bytes that kept products may take. Those of the first steps are kept, as
  /// many as fit; the others are computed again as well.
  int64_t most_kept = std::numeric_limits<int64_t>::max();
  /// Empty unless intermediate tensors are wanted.
  TensorRecorder recorder;
  /// Adds a tensor up over the processes that share a batch; empty where there is one.
  std::function<at::Tensor(const at::Tensor&)> sum_over_processes;

  /// Where several processes share each sequence: which rows of S are this one's.
  std::optional<SequencePart> part;

  /// The rows that count here: the first so many of S.
  int64_t own_rows() const { return part ? part->rows : input_ids.size(1); }
  /// Of the whole sequences, whoever has them.
  int64_t sequence_length() const { return part ? part->length : input_ids.size(1); }

  /// How many rows the whole batch has, of `count` here. What a loss and its metrics divide by: so
  /// they are shares, whose sum over the processes is the whole batch's.
  at::Tensor total_count(const at::Tensor& count) const {
    return sum_over_processes ? sum_over_processes(count) : count;
  }
};

/// Which tokens are trained on and what they are, by the position of the token itself.
struct TokenTargets {
  at::Tensor ids;   // [B,S] int64: the token at each position
  at::Tensor mask;  // [B,S] float32: 1 = train on predicting it
};

/// The rule of the loss mask: attention_mask, and loss_mask where given, and labels != -100 where
/// given without a loss_mask. Position 0 is never a target of a shifted label.
OUTRIDER_API TokenTargets token_targets(const TrainBatch& batch);

}  // namespace outrider
