#include "distributed/sharded_layers.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "outrider/error.h"

namespace outrider {
namespace {

// What a parameter is between passes: its sizes, without its memory.
at::Tensor stand_in(const at::Tensor& parameter, at::Device device) {
  return at::zeros({}, parameter.options().device(device)).expand(parameter.sizes());
}

}  // namespace

void ShardedLayers::take(CausalLM& model, at::Device device) {
  const at::NoGradGuard no_grad;
  const auto modules = model.decoder_layers();
  if (modules.empty() || !model.supply_layers(shared_from_this())) {
    throw Error(ErrorCode::kUnsupported,
                model.config().architecture +
                    " cannot be divided over processes: its decoder "
                    "layers cannot be brought one by one",
                "train without --shard-base");
  }
  std::map<const void*, Place> by_tensor;
  for (const auto& module : modules) {
    layers_.push_back(taken(*module, device));
    const auto& pieces = layers_.back().pieces;
    for (size_t i = 0; i < pieces.size(); ++i) {
      by_tensor[pieces[i].parameter.unsafeGetTensorImpl()] = {layers_.size() - 1, i};
    }
  }
  for (const auto& item : model.named_parameters()) {
    const auto found = by_tensor.find(item.value().unsafeGetTensorImpl());
    if (found != by_tensor.end()) places_[item.key()] = found->second;
  }
  model.to(device);
}

ShardedLayers::Layer ShardedLayers::taken(const torch::nn::Module& module,
                                          at::Device device) const {
  Layer layer;
  int64_t end = 0;
  for (auto& parameter : module.parameters()) {
    layer.pieces.push_back({parameter, end, end + parameter.numel()});
    end = layer.pieces.back().end;
    parameter.set_data(stand_in(parameter, device));
  }
  const auto part = (end + processes_.size() - 1) / processes_.size();
  layer.own = at::zeros({part}, layer.pieces.front().parameter.options());
  return layer;
}

void ShardedLayers::keep(const std::string& parameter, const at::Tensor& value) {
  const at::NoGradGuard no_grad;
  const auto place = places_.at(parameter);
  const auto& [pieces, own] = layers_[place.layer];
  const auto& piece = pieces[place.piece];
  const int64_t first = processes_.rank() * own.size(0), last = first + own.size(0);
  const int64_t begin = std::max(first, piece.begin), end = std::min(last, piece.end);
  if (begin >= end) return;
  own.slice(0, begin - first, end - first)
      .copy_(value.flatten().slice(0, begin - piece.begin, end - piece.begin));
}

void ShardedLayers::begin(int64_t layer, Whole& whole) {
  const auto& own = layers_[static_cast<size_t>(layer)].own;
  const auto size = own.size(0) * processes_.size();
  if (!whole.elements.defined() || whole.elements.size(0) != size) {
    whole.elements = at::empty({size}, own.options());
  }
  whole.layer = layer;
  whole.wait = processes_.begin_gather(whole.elements, own);
}

// What is gathered into was read by the layer before the present one, whose work the device has
// before the gathering.
void ShardedLayers::bring(int64_t layer) {
  const at::NoGradGuard no_grad;
  if (next_.layer != layer) begin(layer, next_);
  std::swap(present_, next_);
  present_.wait();
  for (auto& piece : layers_[static_cast<size_t>(layer)].pieces) {
    const auto sizes = piece.parameter.sizes().vec();
    piece.parameter.set_data(present_.elements.slice(0, piece.begin, piece.end).view(sizes));
  }
  begin((layer + 1) % static_cast<int64_t>(layers_.size()), next_);
}

}  // namespace outrider
