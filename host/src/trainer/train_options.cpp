#include "trainer/train_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "distributed/process_group.h"
#include "outrider/error.h"
#include "outrider/problems.h"
#include "outrider/text.h"
#include "trainer/schedule.h"

namespace outrider {
namespace {

using S = TrainingSettings;

StructSchema<S> make_schema() {
  StructSchema<S> schema("TrainingSettings");
  schema
      .field("max_steps", &S::max_steps, "Optimizer steps (0: --num-train-epochs decides)",
             {.minimum = 0})
      .field("num_train_epochs", &S::num_train_epochs, "Passes over the data")
      .field("max_seconds", &S::max_seconds,
             "End the run and its schedule after this time, whatever the epochs (0: no limit)",
             {.minimum = 0})
      .field("per_device_train_batch_size", &S::per_device_train_batch_size,
             "Conversations per forward pass", {.minimum = 1})
      .field("gradient_accumulation_steps", &S::gradient_accumulation_steps,
             "Forward passes per optimizer step", {.minimum = 1})
      .field("sequence_parallel", &S::sequence_parallel, "Processes that share each sequence",
             {.minimum = 1})
      .field("max_length", &S::max_length, "Tokens at which conversations are cut", {.minimum = 2})
      .field(
          "packing", &S::packing,
          "Put several conversations into each row of --max-length tokens, which do not see each "
          "other; --per-device-train-batch-size then counts rows")
      .field("learning_rate", &S::learning_rate, "Peak learning rate of AdamW", {.minimum = 0})
      .field("lr_scheduler_type", &S::lr_scheduler_type, "linear, cosine or constant",
             {.choices = lr_scheduler_types()})
      .field("warmup_ratio", &S::warmup_ratio, "Share of the run that warms up",
             {.minimum = 0, .maximum = 1})
      .field("warmup_steps", &S::warmup_steps, "Steps that warm up; wins over the ratio",
             {.minimum = 0})
      .field("fit_tokens", &S::fit_tokens,
             "Before the first step, fit the drafts by regression on what the base computes for so "
             "many tokens of the data (0: not). For drafts that were not trained yet",
             {.minimum = 0})
      .field("weight_decay", &S::weight_decay, "Of matrices; norms and biases have none",
             {.minimum = 0})
      .field("adam_beta1", &S::adam_beta1, "Decay of the first moments", {.minimum = 0})
      .field("adam_beta2", &S::adam_beta2, "Decay of the second moments", {.minimum = 0})
      .field("adam_epsilon", &S::adam_epsilon, "Added to the denominator", {.minimum = 0})
      .field("max_grad_norm", &S::max_grad_norm, "Clip gradients to this norm (0: never)",
             {.minimum = 0})
      .field("logging_steps", &S::logging_steps, "Steps between lines of metrics.jsonl",
             {.minimum = 1})
      .field("save_steps", &S::save_steps, "Steps between checkpoints (0: by time alone)",
             {.minimum = 0})
      .field("save_minutes", &S::save_minutes,
             "A checkpoint after so many minutes without one (0: none by time)", {.minimum = 0})
      .field("save_total_limit", &S::save_total_limit, "Checkpoints to keep (0: all)",
             {.minimum = 0})
      .field("save", &S::save,
             "full: whole models; draft: the drafts, with a reference to the base",
             {.choices = {"full", "draft"}})
      .field(
          "base_precision", &S::base_precision,
          "full: the base's products as it is loaded; fp8: in eight-bit floats, in half the memory "
          "and, on GPUs that have them, about half the time",
          {.choices = {"full", "fp8"}})
      .field("recompute", &S::recompute,
             "What the backward pass of drafts computes again to save memory: nothing, elementwise "
             "(norms and activations), products (and those with the MLP's gate and up projection); "
             "auto: elementwise on GPUs, and products where they would take much of the memory",
             {.choices = {"auto", "nothing", "elementwise", "products"}})
      .field(
          "cuda_graphs", &S::cuda_graphs,
          "Launch the recorded kernels of a pass as a whole, which saves the host's time on small "
          "batches; auto: of small batches, where drafts allow it",
          {.choices = {"auto", "on", "off"}})
      .field("wait_for_room", &S::wait_for_room,
             "Seconds to wait for room where the disk is full at the end", {.minimum = 0})
      .field("eval_steps", &S::eval_steps,
             "Steps between evaluations on --eval-data and --eval-prompts (0: only at the end)",
             {.minimum = 0})
      .field("eval_num_prompts", &S::eval_num_prompts,
             "So many of --eval-prompts, spread evenly over the file (0: all)", {.minimum = 0})
      .field("eval_new_tokens", &S::eval_new_tokens, "Tokens decoded for each of --eval-prompts",
             {.minimum = 1})
      .field("eval_draft_tokens", &S::eval_draft_tokens,
             "Tokens that are drafted for one pass of the base, in --eval-prompts", {.minimum = 1});
  return schema;
}

std::string accepted(const FieldInfo& field) {
  if (field.maximum) return fmt::format("{} to {}", *field.minimum, *field.maximum);
  return fmt::format("{} or more", *field.minimum);
}

bool is_in_range(const Json& value, const FieldInfo& field) {
  const auto number = value.get<double>();
  return std::isfinite(number) && number >= *field.minimum &&
         (!field.maximum || number <= *field.maximum);
}

void check_choice(const std::string& value, const FieldInfo& field, Problems& problems) {
  const auto choices = Json(field.choices).get<std::vector<std::string>>();
  problems.add_when(std::ranges::find(choices, value) == choices.end(),
                    fmt::format("{} '{}' is unknown, {}", field.name, printable(value),
                                choices.size() == 2 ? "accepted are " + join(choices, " and ")
                                                    : suggestion(value, choices)));
}

void check_fields(const TrainOptions& options, Problems& problems) {
  const auto values = training_schema().dump(options);
  for (const auto& field : training_schema().fields()) {
    const auto& value = values.at(field.name);
    if (!field.choices.empty()) check_choice(value.get<std::string>(), field, problems);
    if (!field.minimum || is_in_range(value, field)) continue;
    problems.add(
        fmt::format("{} is {}, accepted is {}", field.name, value.dump(), accepted(field)));
  }
}

void check_sequence_parallel(const TrainOptions& o, Problems& problems) {
  const int64_t processes = o.processes ? o.processes->size() : 1;
  if (o.sequence_parallel <= 1 || processes % o.sequence_parallel == 0) return;
  problems.add(
      fmt::format("sequence_parallel is {}, accepted is a number that divides the {} that "
                  "train, which torchrun or another launcher starts",
                  o.sequence_parallel,
                  processes == 1 ? "one process" : fmt::format("{} processes", processes)));
}

void check_together(const TrainOptions& o, Problems& problems) {
  problems.add_when(
      o.max_steps == 0 && o.max_seconds == 0 && !(o.num_train_epochs > 0),
      fmt::format("num_train_epochs is {}, accepted is more than 0", o.num_train_epochs));
  for (const auto& [name, beta] :
       {std::pair("adam_beta1", o.adam_beta1), std::pair("adam_beta2", o.adam_beta2)}) {
    problems.add_when(beta >= 1,
                      fmt::format("{} is {}, accepted is at least 0 and below 1", name, beta));
  }
  problems.add_when(!o.resume_from.empty() && !o.resume, "resume_from needs resume");
  problems.add_when(o.shard_base && !o.processes, "shard_base needs several processes");
  problems.add_when(o.shard_base && o.save != "draft",
                    "shard_base needs save draft: no process has the whole base to write");
  problems.add_when(o.base_precision == "fp8" && o.save != "draft",
                    "base_precision fp8 needs save draft: the base is kept in eight bits alone");
  problems.add_when(o.base_precision == "fp8" && o.shard_base,
                    "base_precision fp8 and shard_base do not go together");
  problems.add_when(o.fit_tokens > 0 && o.processes, "fit_tokens needs one process");
  problems.add_when(o.fit_tokens > 0 && o.base_precision == "fp8",
                    "fit_tokens and base_precision fp8 do not go together");
  problems.add_when(o.cuda_graphs == "on" && o.processes, "cuda_graphs on needs one process");
  problems.add_when(o.packing && o.sequence_parallel > 1,
                    "packing and sequence_parallel do not go together");
  problems.add_when(o.eval_steps > 0 && o.eval_data.empty() && o.eval_prompts.empty(),
                    "eval_steps needs eval_data or eval_prompts");
  problems.add_when(o.shard_base && !o.eval_prompts.empty(),
                    "shard_base and eval_prompts do not go together: no process has the whole "
                    "base to decode with");
  check_sequence_parallel(o, problems);
}

}  // namespace

const StructSchema<TrainingSettings>& training_schema() {
  static const auto& schema = *new StructSchema<TrainingSettings>(make_schema());
  return schema;
}

void check_options(const TrainOptions& options) {
  Problems problems;
  problems.add_when(options.output.empty(), "output is not given");
  check_fields(options, problems);
  check_together(options, problems);
  problems.throw_in_a_line(ErrorCode::kInvalidArgument, "training options",
                           "see outrider train --help");
}

Json reproducible_options(const TrainOptions& options) {
  auto values = training_schema().dump(options);
  for (const char* key :
       {"max_steps", "num_train_epochs", "logging_steps", "save", "save_steps", "save_minutes",
        "save_total_limit", "wait_for_room", "eval_steps", "eval_num_prompts", "eval_new_tokens",
        "eval_draft_tokens", "sequence_parallel", "recompute", "cuda_graphs"}) {
    values.erase(key);
  }
  if (options.base_precision == "full") values.erase("base_precision");
  if (!options.packing) values.erase("packing");
  if (options.fit_tokens == 0) values.erase("fit_tokens");
  values["seed"] = options.seed;
  return values;
}

Json option_values(const TrainOptions& options) {
  auto values = training_schema().dump(options);
  values.update({{"seed", options.seed},
                 {"model", options.source.string()},
                 {"data", options.data.string()},
                 {"eval_data", options.eval_data.string()},
                 {"eval_prompts", options.eval_prompts.string()},
                 {"output", options.output.string()}});
  return values;
}

int64_t batch_parts(const TrainOptions& options) {
  return options.processes ? options.processes->size() / options.sequence_parallel : 1;
}

int64_t planned_steps(const TrainOptions& options, int64_t batches_per_epoch) {
  if (options.max_steps > 0 || options.max_seconds > 0) return options.max_steps;
  const auto accumulation = options.gradient_accumulation_steps;
  const auto per_epoch = (batches_per_epoch + accumulation - 1) / accumulation;
  return static_cast<int64_t>(std::ceil(options.num_train_epochs * static_cast<double>(per_epoch)));
}

}  // namespace outrider
