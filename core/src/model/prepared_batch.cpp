#include "outrider/model/prepared_batch.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <utility>

#include "outrider/error.h"

namespace outrider {
namespace {

void check_shapes(const TrainBatch& input) {
  if (!input.input_ids.defined() || input.input_ids.dim() != 2 || input.input_ids.numel() == 0) {
    throw Error(ErrorCode::kInvalidArgument, "input_ids must be [B,S] with at least one token");
  }
  const std::pair<const char*, const at::Tensor&> others[] = {
      {"attention_mask", input.attention_mask},
      {"position_ids", input.position_ids},
      {"loss_mask", input.loss_mask},
      {"labels", input.labels},
      {"document_ids", input.document_ids}};
  for (const auto& [name, tensor] : others) {
    if (tensor.defined() && tensor.sizes() != input.input_ids.sizes()) {
      throw Error(
          ErrorCode::kInvalidArgument,
          fmt::format("{} is [{}], expected the shape of input_ids [{}]", name,
                      fmt::join(tensor.sizes(), ","), fmt::join(input.input_ids.sizes(), ",")));
    }
  }
}

// The base attends to everything before a token, also across documents.
void refuse_packed_rows(const TrainBatch& batch) {
  const auto& document_ids = batch.document_ids;
  if (!document_ids.defined()) return;
  auto changes = document_ids.slice(1, 1).ne(document_ids.slice(1, 0, -1));
  if (batch.attention_mask.defined()) {  // what stands in padding is of no document
    const auto seen = batch.attention_mask.ne(0);
    changes = changes & seen.slice(1, 1) & seen.slice(1, 0, -1);
  }
  const auto differs = changes.any(1).nonzero();
  if (differs.numel() == 0) return;
  throw Error(ErrorCode::kUnsupported,
              fmt::format("document_ids: row {} holds more than one document, and attention across "
                          "documents is not kept out",
                          differs[0].item<int64_t>()),
              "give one document in a row");
}

// Under causal attention, padding on the right is seen by padding only.
bool is_right_padded(const at::Tensor& mask) {
  const auto starts_again =
      at::logical_and(mask.slice(1, 1), at::logical_not(mask.slice(1, 0, -1)));
  return !starts_again.any().item<bool>();
}

at::Tensor key_mask_of(const TrainBatch& batch, const HiddenStateRequest& request,
                       bool right_padded) {
  if (!batch.attention_mask.defined()) return {};
  if (right_padded && !request.at_padding) return {};
  const auto mask = batch.attention_mask.ne(0);
  return request.at_padding || !is_right_padded(mask) ? mask : at::Tensor();
}

}  // namespace

TrainBatch prepared_batch(const TrainBatch& batch, const HiddenStateRequest& request,
                          bool right_padded) {
  check_shapes(batch);
  refuse_packed_rows(batch);
  auto prepared = batch;
  prepared.key_mask = key_mask_of(batch, request, right_padded);
  return prepared;
}

}  // namespace outrider
