#include "draft_decoder.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "config/architecture.h"
#include "outrider/error.h"

namespace outrider::eagle {
namespace {

// Of new embeddings; a norm follows them, so that their size matters little.
constexpr double kEmbeddingDeviation = 0.02;

nn::CosSin slice_tables(const nn::CosSin& tables, int64_t begin, int64_t end) {
  return {tables.cos.slice(2, begin, end), tables.sin.slice(2, begin, end)};
}

at::Tensor uniforms(const TrainBatch& batch, int64_t step) {
  const auto& ids = batch.input_ids;
  const auto name = fmt::format("mix.rand.step_{}", step);
  const auto given = batch.extras.find(name);
  if (given == batch.extras.end()) return at::rand(ids.sizes(), ids.options().dtype(at::kFloat));
  if (given->second.sizes() == ids.sizes()) return given->second;
  throw Error(ErrorCode::kInvalidData, fmt::format("'{}' must have the shape of input_ids [{},{}]",
                                                   name, ids.size(0), ids.size(1)));
}

// Of S positions, S / (2^k + 1) and at least one: [B,S] bool.
at::Tensor mixed_positions(const TrainBatch& batch, int64_t step) {
  const int64_t length = batch.input_ids.size(1);
  const int64_t divisor = (int64_t{1} << std::min<int64_t>(step, 60)) + 1;
  const auto order = at::argsort(uniforms(batch, step), int64_t{1}, /*descending=*/false);
  const auto chosen = order.slice(1, 0, std::max<int64_t>(1, length / divisor));
  return at::zeros_like(batch.input_ids, at::kBool).scatter_(1, chosen, true);
}

}  // namespace

at::Tensor at_positions(const at::Tensor& rows, int64_t first, int64_t length) {
  return at::constant_pad_nd(rows, {0, 0, first, length - first - rows.size(1)});
}

DraftDecoder::DraftDecoder(torch::nn::Module& owner, const DraftSettings& settings,
                           at::TensorOptions options)
    : rotary_(rope_config(settings.architecture), settings.architecture.head_dim),
      mixes_(settings.mixes_hidden_states),
      masks_padding_keys_(settings.numerics.masks_padding_keys),
      wraps_(settings.numerics.wraps_last_position),
      products_per_row_(2 * settings.architecture.intermediate_size *
                        settings.architecture.num_hidden_layers) {
  const auto& a = settings.architecture;
  auto list = std::make_shared<torch::nn::Module>();
  for (int64_t i = 0; i < a.num_hidden_layers; ++i) {
    const bool reads_embeddings = a.use_aux_hidden_state && i == 0;
    layers_.push_back(list->register_module(
        std::to_string(i),
        std::make_shared<EagleLayer>(a, reads_embeddings, settings.numerics.norms_hidden_twice,
                                     options)));
  }
  owner.register_module("layers", list);
  if (a.has_embeddings) {
    auto holder = owner.register_module("embed_tokens", std::make_shared<torch::nn::Module>());
    own_embeddings_ = holder->register_parameter(
        "weight",
        at::randn({a.vocab_size, a.draft_hidden_size}, options).mul_(kEmbeddingDeviation));
  }
  input_ = make_draft_input(owner, settings, options);
}

HiddenStateRequest DraftDecoder::hidden_states_needed() const {
  auto request = input_->hidden_states_needed();
  if (own_embeddings_.defined()) request.input_embeddings = false;
  return request;
}

at::Tensor DraftDecoder::embeddings(const BaseOutputs& base, const TrainBatch& batch) const {
  return own_embeddings_.defined() ? at::embedding(own_embeddings_, batch.input_ids)
                                   : base.input_embeddings.detach();
}

nn::CosSin DraftDecoder::rotary(const at::Tensor& rows) {
  const auto positions = at::arange(rows.size(1), rows.options().dtype(at::kLong)).unsqueeze(0);
  return rotary_.tables(positions, rows.scalar_type());
}

at::Tensor DraftDecoder::shifted_left(const at::Tensor& x) const {
  const auto first = x.slice(1, 0, 1);
  return at::cat({x.slice(1, 1), wraps_ ? first : at::zeros_like(first)}, 1);
}

at::Tensor DraftDecoder::shifted_right(const at::Tensor& x) const {
  const auto last = x.slice(1, -1);
  return at::cat({wraps_ ? last : at::zeros_like(last), x.slice(1, 0, -1)}, 1);
}

ops::Recompute DraftDecoder::recompute_in(const Pass& pass, int64_t step) const {
  const auto& batch = pass.batch;
  if (batch.recompute != ops::Recompute::kElementwise) return batch.recompute;
  const int64_t step_bytes =
      batch.input_ids.numel() * products_per_row_ * pass.embeddings.element_size();
  return step < batch.most_kept / step_bytes ? batch.recompute : ops::Recompute::kProducts;
}

StepContext DraftDecoder::lagged_context(const Pass& pass, int64_t step) const {
  const int64_t end = pass.length - 1, size = end - step;
  StepContext context{pass.embeddings.slice(1, step + 1),
                      slice_tables(pass.rotary, step, end),
                      {},
                      {},
                      pass.batch.part,
                      {},
                      recompute_in(pass, step)};
  if (const auto& documents = pass.batch.documents) context.documents = documents->first(size);
  const auto& key_mask = pass.batch.key_mask;
  if (!key_mask.defined() || (step > 0 && !masks_padding_keys_)) return context;
  // A key belongs to the token after its position, whose embedding it was made of.
  const auto token_mask = key_mask.slice(1, 1);
  context.key_mask = token_mask.slice(1, 0, size);
  for (int64_t i = 1; i <= step; ++i) {
    context.diagonal_masks.push_back(token_mask.slice(1, i, i + size));
  }
  return context;
}

StepContext DraftDecoder::whole_context(const Pass& pass) const {
  const auto& key_mask = pass.batch.key_mask;
  return {shifted_left(pass.embeddings),
          pass.rotary,
          key_mask.defined() ? shifted_left(key_mask) : at::Tensor(),
          {},
          std::nullopt,
          std::nullopt};
}

at::Tensor DraftDecoder::run_layers(const at::Tensor& hidden, const StepContext& context,
                                    std::vector<StepCache>& caches) const {
  auto x = input_->combine(hidden, context.embeddings);
  for (size_t i = 0; i < layers_.size(); ++i) x = layers_[i]->forward(x, context, caches[i]);
  return x;
}

// Step k's rows are the positions k … S-2: without the first step's position 0 and the last row of
// each step, nothing wraps.
std::vector<at::Tensor> DraftDecoder::run_lagged(at::Tensor hidden, const Pass& pass) const {
  std::vector<StepCache> caches(layers_.size());
  std::vector<at::Tensor> outputs;
  for (int64_t step = 0; step < pass.steps; ++step) {
    hidden = hidden.slice(1, 0, -1);
    if (step > 0 && pass.batch.recorder) {
      pass.batch.recorder(fmt::format("draft_input_hidden.step_{}", step),
                          at_positions(hidden, step, pass.length));
    }
    hidden = run_layers(hidden, lagged_context(pass, step), caches);
    outputs.push_back(hidden);
  }
  return outputs;
}

// Every step is a pass of its own over all positions, some of which read the step before's output.
std::vector<at::Tensor> DraftDecoder::run_mixed(at::Tensor hidden, const Pass& pass) const {
  auto context = whole_context(pass);
  std::vector<at::Tensor> outputs;
  for (int64_t step = 0; step < pass.steps; ++step) {
    context.recompute = recompute_in(pass, step);
    if (step > 0 && pass.batch.recorder) {
      pass.batch.recorder(fmt::format("draft_input_hidden.step_{}", step), hidden);
    }
    std::vector<StepCache> caches(layers_.size());
    const auto output = run_layers(hidden, context, caches);
    outputs.push_back(output.slice(1, step, pass.length - 1));
    if (step + 1 == pass.steps) break;
    const auto replaced = mixed_positions(pass.batch, step).unsqueeze(-1);
    hidden = at::where(replaced, shifted_right(output), hidden);
  }
  return outputs;
}

std::vector<at::Tensor> DraftDecoder::run(const BaseOutputs& base, const TrainBatch& batch,
                                          int64_t steps) {
  const int64_t length = batch.input_ids.size(1);
  const auto positions = batch.position_ids.defined()
                             ? batch.position_ids
                             : at::arange(length, batch.input_ids.options()).unsqueeze(0);
  const auto hidden = input_->start(base);
  const Pass pass{
      base,
      batch,
      rotary_.tables(positions, hidden.scalar_type(), batch.part ? batch.part->length : 0),
      embeddings(base, batch),
      length,
      std::min(steps, batch.sequence_length() - 1)};
  if (batch.recorder) {
    batch.recorder("draft_input_hidden.step_0", hidden);
    batch.recorder("draft_input_embeds", shifted_left(pass.embeddings));
  }
  return mixes_ ? run_mixed(hidden, pass) : run_lagged(hidden, pass);
}

bool DraftDecoder::takes_few_rows(const at::Tensor& rows) const {
  return !rotary_.depends_on_length() && std::ranges::all_of(layers_, [&](const auto& layer) {
    return layer->takes_few_rows(rows);
  });
}

at::Tensor DraftDecoder::advance(const at::Tensor& states, const at::Tensor& tokens,
                                 const LmHead& head, nn::CachedPass& pass) {
  const auto embeddings =
      (own_embeddings_.defined() ? at::embedding(own_embeddings_, tokens) : head.embedding(tokens))
          .to(states.scalar_type());
  const auto rotary = pass.tables(rotary_, states.scalar_type());
  auto x = input_->combine(states, embeddings);
  for (int64_t i = 0; i < num_layers(); ++i) {
    x = layers_[static_cast<size_t>(i)]->forward(x, embeddings, rotary, pass, i);
  }
  return x;
}

}  // namespace outrider::eagle
