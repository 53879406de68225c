#include "model/recorded_pass.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "kernels/cuda/few_rows.h"
#include "outrider/kernels/launch.h"

namespace outrider {
namespace {

// Between two recordings the device waits for some microseconds.
constexpr int64_t kStepsOfRecording = 8;

bool is_form_known(const PassForm& form, const nn::KvCache& cache, const DecoderStack& stack) {
  return cuda::few_rows_start && c10::InferenceMode::is_enabled() && cache.longest() > 0 &&
         stack.embedding.is_cuda() && ops::are_few_rows(form.sequences, form.rows) &&
         stack.embedding.scalar_type() == at::kBFloat16 && stack.embedding.is_contiguous() &&
         !stack.rotary.depends_on_length();
}

std::optional<std::vector<nn::FewRowsLayer>> few_rows_layers(const DecoderStack& stack,
                                                             const at::Tensor& rows) {
  std::vector<nn::FewRowsLayer> layers;
  for (const auto& layer : stack.layers) {
    auto own = layer->few_rows_layer();
    if (!own || !nn::takes_few_rows(*own, rows, rows)) return std::nullopt;
    layers.push_back(*std::move(own));
  }
  return layers;
}

// One set of buffers serves them all.
bool are_of_one_shape(const std::vector<nn::FewRowsLayer>& layers) {
  const auto shape = [](const nn::FewRowsLayer& layer) {
    return std::tuple(layer.heads, layer.key_heads, layer.head_dim, layer.down.weight.size(1));
  };
  return std::ranges::all_of(
      layers, [&](const nn::FewRowsLayer& layer) { return shape(layer) == shape(layers.front()); });
}

// Before anything is prepared, which is dropped where slots move.
void make_room(nn::KvCache& cache, const DecoderStack& stack, const PassForm& form, int64_t room) {
  if (cache.has_room(room)) return;
  for (size_t i = 0; i < stack.layers.size(); ++i) {
    const auto& shape = stack.layers[i]->self_attn->shape;
    const auto like = at::empty({form.sequences, shape.num_key_value_heads, 0, shape.head_dim},
                                stack.embedding.options());
    cache.slots(static_cast<int64_t>(i), like, room);
  }
}

}  // namespace

bool RecordedPass::is_for(const BasePass& pass) {
  return pass.cache && pass.input_ids.is_cuda() && !pass.position_ids.defined() &&
         !pass.documents &&
         (!pass.tree_mask.defined() || pass.tree_mask.size(2) == pass.input_ids.size(1));
}

std::shared_ptr<RecordedPass> RecordedPass::of(const PassForm& form, int64_t room,
                                               nn::KvCache& cache, DecoderStack& stack) {
  if (!is_form_known(form, cache, stack)) return nullptr;
  make_room(cache, stack, form, room);
  const auto name = fmt::format("pass of {} rows{}", form.rows, form.is_tree ? ", a tree" : "");
  const auto [kept, is_new] = cache.prepared().try_emplace(name);
  if (is_new) kept->second = made(form, cache, stack);
  return std::static_pointer_cast<RecordedPass>(kept->second);
}

std::shared_ptr<RecordedPass> RecordedPass::made(const PassForm& form, nn::KvCache& cache,
                                                 DecoderStack& stack) {
  const auto rows =
      at::empty({form.sequences, form.rows, stack.embedding.size(1)}, stack.embedding.options());
  auto layers = few_rows_layers(stack, rows);
  if (!layers || layers->empty() || !are_of_one_shape(*layers)) return nullptr;
  return std::shared_ptr<RecordedPass>(new RecordedPass(form, cache, stack, *std::move(layers)));
}

RecordedPass::RecordedPass(const PassForm& form, nn::KvCache& cache, DecoderStack& stack,
                           std::vector<nn::FewRowsLayer> layers)
    : cache_(cache), stack_(stack), layers_(std::move(layers)) {
  const auto options = stack.embedding.options(), whole = options.dtype(at::kLong);
  embeddings_ = at::empty({form.sequences, form.rows, stack.embedding.size(1)}, options);
  ids_ = at::empty({form.sequences, form.rows}, whole);
  positions_ = at::empty_like(ids_);
  lengths_ = at::empty({form.sequences}, whole);
  if (form.is_tree) {
    seen_ = at::empty({form.sequences, form.rows, form.rows}, options.dtype(at::kBool));
  }
  for (size_t i = 0; i < layers_.size(); ++i) {
    slots_.push_back(cache.slots(static_cast<int64_t>(i), {}, 0));
    outputs_.push_back(at::empty_like(embeddings_));
  }
  const auto positions = at::arange(slots_.front().key.size(2), whole).unsqueeze(0);
  const auto tables = stack_.rotary.tables(positions, embeddings_.scalar_type());
  tables_ = {tables.cos.contiguous(), tables.sin.contiguous()};
  buffers_ = nn::few_rows_buffers(layers_.front(), place_of(0), embeddings_);
}

nn::FewRowsPlace RecordedPass::place_of(size_t layer) const {
  return {.keys = slots_[layer].key,
          .values = slots_[layer].value,
          .lengths = lengths_,
          .positions = positions_,
          .seen = seen_,
          .tables = tables_,
          .tables_by_position = true};
}

void RecordedPass::launch_pass() const {
  const kernels::Launch launch("few_rows_start", embeddings_);
  launch.check(
      cuda::few_rows_start({.batch = ids_.size(0),
                            .rows = ids_.size(1),
                            .hidden = embeddings_.size(2),
                            .ids = ids_.const_data_ptr<int64_t>(),
                            .embedding = stack_.embedding.const_data_ptr(),
                            .lengths = lengths_.const_data_ptr<int64_t>(),
                            .seen = seen_.defined() ? seen_.const_data_ptr<bool>() : nullptr,
                            .seen_batch = ids_.size(0),
                            .x = embeddings_.data_ptr(),
                            .positions = positions_.data_ptr<int64_t>()},
                           launch.stream()));
  auto x = embeddings_;
  for (size_t i = 0; i < layers_.size(); ++i) {
    nn::run_few_rows(layers_[i], x, x, place_of(i), buffers_, outputs_[i]);
    x = outputs_[i];
  }
}

// The head reads the last layer's output through the final norm.
void RecordedPass::launch_step(const at::Tensor& head) const {
  launch_pass();
  ops::few_rows_product(outputs_.back(), {stack_.norm->weight, stack_.norm->eps}, {{head, {}}},
                        ops::Joined::kSideBySide, {}, logits_);
  const kernels::Launch launch("few_rows_choice", logits_);
  launch.check(cuda::few_rows_choice({.batch = ids_.size(0),
                                      .vocabulary = logits_.size(-1),
                                      .logits = logits_.const_data_ptr(),
                                      .ids = ids_.data_ptr<int64_t>(),
                                      .lengths = lengths_.data_ptr<int64_t>(),
                                      .written = written_.data_ptr<int64_t>(),
                                      .capacity = written_.size(1)},
                                     launch.stream()));
}

// Steps that go on by themselves leave the lengths as they are to be for the next.
void RecordedPass::take(const at::Tensor& ids) {
  ids_.copy_(ids);
  if (device_lengths_ == cache_.lengths()) return;
  lengths_.copy_(at::tensor(cache_.lengths(), at::kLong), /*non_blocking=*/true);
  device_lengths_ = cache_.lengths();
}

BaseOutputs RecordedPass::run(const BasePass& pass) {
  take(pass.input_ids);
  if (seen_.defined()) seen_.copy_(pass.tree_mask.expand_as(seen_));
  pass_.run_on(embeddings_, [&] { launch_pass(); });
  BaseOutputs outputs;
  if (pass.request.input_embeddings) outputs.input_embeddings = embeddings_;
  for (const int64_t layer : pass.request.layer_outputs) {
    outputs.layer_outputs[layer] = outputs_.at(static_cast<size_t>(layer));
  }
  if (pass.request.last_hidden_prenorm) outputs.last_hidden_prenorm = outputs_.back();
  if (pass.request.last_hidden) outputs.last_hidden = stack_.norm->forward(outputs_.back());
  return outputs;
}

at::Tensor RecordedPass::continue_greedily(const at::Tensor& ids, const at::Tensor& head,
                                           int64_t steps) {
  if (!logits_.defined()) {
    logits_ = at::empty({ids_.size(0), head.size(0)}, head.options());
    written_ = at::empty({ids_.size(0), slots_.front().key.size(2)}, ids_.options());
  }
  take(ids);
  device_lengths_.clear();
  int64_t left = steps;
  for (; left >= kStepsOfRecording; left -= kStepsOfRecording) {
    steps_.run_on(embeddings_, [&] {
      for (int64_t i = 0; i < kStepsOfRecording; ++i) launch_step(head);
    });
  }
  for (; left > 0; --left) {
    step_.run_on(embeddings_, [&] { launch_step(head); });
  }
  std::vector<at::Tensor> news;
  for (size_t b = 0; b < cache_.lengths().size(); ++b) {
    news.push_back(written_[static_cast<int64_t>(b)].narrow(0, cache_.lengths()[b], steps));
  }
  cache_.commit(std::vector<int64_t>(news.size(), steps));
  device_lengths_ = cache_.lengths();
  return at::stack(news);
}

}  // namespace outrider
