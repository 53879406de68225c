#include <ATen/ATen.h>
#include <fmt/format.h>

#include <map>
#include <memory>
#include <optional>
#include <string_view>

#include "cli/app.h"
#include "cli/model_options.h"
#include "generate/reference_acceptance.h"
#include "generate/session.h"
#include "outrider/error.h"
#include "outrider/host/checkpoint.h"
#include "outrider/loss/step_logits.h"

namespace outrider::cli {
namespace {

struct ForwardArguments {
  LoadOptions load;
  ModelOptions options;
  std::string model;
  std::filesystem::path batch, out, weights;
  bool train = false, gradients = false, hidden_states = false;
  int64_t generate_steps = 6, acceptance_tokens = 16;
  std::vector<int64_t> acceptance_steps{1, 3};
};

constexpr std::string_view kStoredPrefix = "base_model_outputs.";

/// The tensors of a batch file, each handed out once; what is left is for single algorithms.
class BatchFile {
 public:
  BatchFile(const std::filesystem::path& path, at::Device device)
      : path_(path.string()), device_(device), tensors_(read_tensors(path)) {}

  /// Undefined where the file has none.
  at::Tensor take(const std::string& name) {
    const auto found = tensors_.extract(name);
    return found.empty() ? at::Tensor() : found.mapped().to(device_);
  }
  at::Tensor take_integers(const std::string& name) {
    auto tensor = take(name);
    if (!tensor.defined()) return tensor;
    if (at::isIntegralType(tensor.scalar_type(), /*includeBool=*/true)) return tensor.to(at::kLong);
    throw Error(ErrorCode::kInvalidFile, fmt::format("{}: '{}' is {}, expected integers", path_,
                                                     name, dtype_name(tensor.scalar_type())));
  }
  std::map<std::string, at::Tensor> take_rest() {
    std::map<std::string, at::Tensor> rest;
    for (const auto& [name, tensor] : tensors_) rest[name] = tensor.to(device_);
    return rest;
  }
  bool has_stored_outputs() const {
    const auto first = tensors_.lower_bound(std::string(kStoredPrefix));
    return first != tensors_.end() && first->first.starts_with(kStoredPrefix);
  }

 private:
  std::string path_;
  at::Device device_;
  TensorMap tensors_;
};

std::optional<StoredBaseOutputs> take_stored_outputs(BatchFile& file) {
  if (!file.has_stored_outputs()) return {};
  const auto take = [&](const char* key) { return file.take(std::string(kStoredPrefix) + key); };
  StoredBaseOutputs stored{.last_hidden = take("base_model_hidden_states"),
                           .layer_outputs = take("aux_hidden_states"),
                           .input_embeddings = take("base_model_input_embeds"),
                           .logits = take("base_model_logits")};
  const auto prenorm = take("base_hidden_prenorm");
  stored.is_prenorm = prenorm.defined() && prenorm.ne(0).any().item<bool>();
  return stored;
}

/// What is continued beside the batch: rows [n,S] of tokens, undefined where there are none.
struct Prompts {
  at::Tensor generate, acceptance;
};

ForwardInput read_batch(BatchFile& file, const std::filesystem::path& path) {
  ForwardInput input;
  input.batch.input_ids = file.take_integers("input_ids");
  if (!input.batch.input_ids.defined()) {
    throw Error(
        ErrorCode::kInvalidFile, fmt::format("{}: no tensor 'input_ids'", path.string()),
        "the batch needs input_ids [B,S]; attention_mask, position_ids, loss_mask, labels and "
        "document_ids are optional");
  }
  input.batch.attention_mask = file.take_integers("attention_mask");
  input.batch.position_ids = file.take_integers("position_ids");
  input.batch.loss_mask = file.take_integers("loss_mask");
  input.batch.labels = file.take_integers("labels");
  input.batch.document_ids = file.take_integers("document_ids");
  input.base_outputs = take_stored_outputs(file);
  input.batch.extras = file.take_rest();
  return input;
}

void check_token_ids(const CausalLM& model, const at::Tensor& ids, const std::string& name) {
  if (ids.defined() && ids.numel() > 0 &&
      (ids.min().item<int64_t>() < 0 || ids.max().item<int64_t>() >= model.config().vocab_size)) {
    throw Error(ErrorCode::kInvalidData,
                fmt::format("{} has ids outside the vocabulary of {} tokens", name,
                            model.config().vocab_size));
  }
}

Prompts take_prompts(BatchFile& file, const CausalLM& model) {
  const auto take = [&](const std::string& name) {
    const auto ids = file.take_integers(name);
    if (ids.defined() && (ids.dim() != 2 || ids.size(1) < 2)) {
      throw Error(ErrorCode::kInvalidData, name + ": expected rows [B,S] of at least two tokens");
    }
    check_token_ids(model, ids, name);
    return model.speculative_state().empty() ? at::Tensor() : ids;
  };
  return {take("generate.input_ids"), take("ar.input_ids")};
}

void collect_losses(const ForwardOutput& output, const CausalLM& model, TensorMap& results) {
  if (output.loss.defined()) results["loss"] = output.loss;
  if (output.lm_loss.defined()) results["loss.base"] = output.lm_loss;
  for (size_t d = 0; d < output.draft_losses.size(); ++d) {
    const auto& mode = model.speculative_state()[d].state.mode;
    results[mode + "_loss"] = output.draft_losses[d].total;
    for (const auto& step : output.draft_losses[d].steps) {
      results["loss." + step.name] = step.loss;
      results["train_acc." + step.name] = step.accuracy;
      results["overlap." + step.name] = step.overlap;
    }
  }
}

void collect_gradients(const CausalLM& model, TensorMap& results) {
  for (const auto& item : model.named_parameters()) {
    if (item.value().grad().defined()) results["grad." + item.key()] = item.value().grad();
  }
}

// What ModelOpt's pseudo_speculative_generate() gives, under the names of all drafts and of this
// one.
void collect_generated(CausalLM& model, const at::Tensor& ids, int64_t steps, TensorMap& results) {
  if (!ids.defined()) return;
  const auto generated = pseudo_speculative_generate(model, ids, steps);
  const auto& mode = model.speculative_state().front().state.mode;
  results["generate.base_token"] = generated.base_token;
  results["generate.draft_tokens"] = generated.draft_tokens;
  results["generate." + mode + "_tokens"] = generated.draft_tokens;
  if (generated.draft_logits.defined()) {
    results["generate.draft_logits_last"] = generated.draft_logits;
  }
}

std::vector<int64_t> as_list(const at::Tensor& row) {
  const auto values = row.to(at::kCPU).contiguous();
  return {values.const_data_ptr<int64_t>(), values.const_data_ptr<int64_t>() + values.numel()};
}

// What ModelOpt's AcceptanceRateValidation gives for each prompt.
void collect_acceptance(CausalLM& model, const at::Tensor& prompts,
                        const ForwardArguments& arguments, TensorMap& results) {
  if (!prompts.defined()) return;
  const auto stops = stop_tokens(arguments.model);
  const auto row = [](const std::vector<int64_t>& tokens) {
    return at::tensor(tokens, at::kLong).unsqueeze(0);
  };
  const auto scalar = [](double value) { return at::scalar_tensor(value, at::kFloat); };
  for (int64_t i = 0; i < prompts.size(0); ++i) {
    const auto prompt = as_list(prompts[i]);
    const auto truth = ground_truth(model, prompt, arguments.acceptance_tokens, stops);
    results[fmt::format("ar.ground_truth.{}", i)] = row(truth);
    for (const auto steps : arguments.acceptance_steps) {
      const auto name = fmt::format("steps_{}.{}", steps, i);
      results["ar.validate." + name] = scalar(validate(model, prompt, truth, steps).rate);
      const auto online = validate_online(model, prompt, arguments.acceptance_tokens, steps);
      results["ar.validate_online." + name] = scalar(online.rate);
      results["ar.validate_online_ids." + name] = row(online.tokens);
    }
  }
}

// Unconverted models report the plain names, converted ones tell the base's results from the
// draft's.
TensorRecorder recorder_into(TensorMap& results, bool converted, bool hidden_states) {
  return [&results, converted, hidden_states](const std::string& name, const at::Tensor& tensor) {
    const bool is_hidden = name.starts_with("hidden_states.");
    if (is_hidden && !hidden_states) return;
    if (name.starts_with(loss::kStepLogits)) return;  // the same in an order for `verify`
    const bool plain = !converted && name == "base.logits";
    results[plain ? "logits" : name] = tensor.detach();
  };
}

void forward(const ForwardArguments& arguments, const GlobalOptions& global) {
  use_plugins(global);
  const auto load = with_options(arguments.load, arguments.options);
  const auto model = load_to_run(arguments.model, load);
  if (!arguments.weights.empty()) load_weights(*model, arguments.weights);
  BatchFile file(arguments.batch, load.device);
  const Prompts prompts = take_prompts(file, *model);
  auto input = read_batch(file, arguments.batch);
  check_token_ids(*model, input.batch.input_ids, "input_ids");
  for (const auto& attached : model->speculative_state()) attached.draft->train(arguments.train);
  TensorMap results;
  const bool converted = !model->speculative_state().empty();
  input.batch.recorder = recorder_into(results, converted, arguments.hidden_states);
  input.want_lm_loss = input.batch.labels.defined() || input.batch.loss_mask.defined();
  const at::AutoGradMode mode(arguments.gradients);
  const auto output = model->forward(input);
  collect_losses(output, *model, results);
  if (arguments.gradients && output.loss.defined()) {
    output.loss.backward();
    collect_gradients(*model, results);
  }
  for (const auto& attached : model->speculative_state()) attached.draft->eval();
  collect_generated(*model, prompts.generate, arguments.generate_steps, results);
  collect_acceptance(*model, prompts.acceptance, arguments, results);
  write_tensors(arguments.out, results);
  Json json = {{"out", arguments.out.string()}, {"tensors", results.size()}};
  if (output.loss.defined()) json["loss"] = output.loss.item<double>();
  if (global.json) return print_json(json);
  if (output.loss.defined()) fmt::print("loss {:.6f}\n", output.loss.item<double>());
  fmt::print("{} tensors written to {}\n", results.size(), arguments.out.string());
}

}  // namespace

void add_forward_verb(CLI::App& app, const GlobalOptions& global) {
  auto arguments = std::make_shared<ForwardArguments>();
  auto* verb = add_verb(app, "forward", "Run one batch and write every result as tensors",
                        "outrider forward DIR --batch in.safetensors --out out.safetensors --train "
                        "--gradients");
  verb->add_option("DIR", arguments->model, "Model folder, converted or not")->required();
  verb->add_option("--batch", arguments->batch, "Safetensors file with input_ids [B,S], …")
      ->required();
  verb->add_option("--out", arguments->out, "Safetensors file to write")->required();
  verb->add_flag("--train", arguments->train, "Drafts in training mode (all steps)");
  verb->add_flag("--gradients", arguments->gradients,
                 "Also write grad.NAME for trained parameters");
  verb->add_flag("--hidden-states", arguments->hidden_states, "Also write hidden_states.0 … .L");
  verb->add_option("--weights", arguments->weights, "Replace parameters and buffers by name first");
  verb->add_option("--generate-steps", arguments->generate_steps,
                   "Where the batch has generate.input_ids: tokens that the draft adds to each row")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  verb->add_option("--acceptance-steps", arguments->acceptance_steps,
                   "Where it has ar.input_ids: numbers of drafted tokens to validate with")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  verb->add_option("--acceptance-tokens", arguments->acceptance_tokens,
                   "The same: how far each row is continued")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  add_model_options(*verb, arguments->options);
  add_base_option(*verb, arguments->load.base);
  add_numerics_option(*verb, arguments->load.reference_numerics);
  verb->callback([arguments, &global] { forward(*arguments, global); });
}

}  // namespace outrider::cli
