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

// 0 … S-1 anew in each document.
at::Tensor positions_within(const ops::Documents& documents) {
  const auto& starts = documents.starts;
  return at::arange(starts.size(1), starts.options()).unsqueeze(0) - starts;
}

void prepare_documents(TrainBatch& batch) {
  if (!batch.document_ids.defined()) return;
  if (!batch.documents) {
    auto found = ops::documents_of(batch.document_ids);
    const bool has_one_a_row = found.offsets.size(0) == batch.input_ids.size(0) + 1;
    if (has_one_a_row) return;
    batch.documents = std::move(found);
  }
  if (!batch.position_ids.defined()) batch.position_ids = positions_within(*batch.documents);
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
  auto prepared = batch;
  prepare_documents(prepared);
  prepared.key_mask = key_mask_of(batch, request, right_padded);
  return prepared;
}

}  // namespace outrider
