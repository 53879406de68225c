#pragma once

#include <cstdint>
#include <memory>

#include "outrider/model/causal_lm.h"

namespace outrider {

/// Throws kUnsupported, naming everything in a pass that processes cannot share. `batch` is what
/// the input's was prepared to.
void require_shared_training(const CausalLM& model, const ForwardInput& input,
                             const TrainBatch& batch);

/// How far the attached drafts look ahead.
int64_t positions_ahead(const CausalLM& model);

/// This process's part of a right-padded batch: its L rows, and `ahead` more. L is the same in each
/// process and at least `ahead`.
TrainBatch own_part(const TrainBatch& batch, std::shared_ptr<SequenceShare> share, int64_t ahead);

/// The outputs for all positions of `pass`: each process runs the base on its own rows, and gets
/// the others from its successor (the last process: zeros).
BaseOutputs shared_base_pass(CausalLM& model, const BasePass& pass, const SequencePart& part);

}  // namespace outrider
