#include "trainer/train_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "outrider/error.h"
#include "outrider/problems.h"
#include "outrider/text.h"
#include "trainer/schedule.h"

namespace outrider {
namespace {

class OptionProblems : public Problems {
 public:
  template <class T>
  void require(bool holds, const char* name, const T& value, const char* accepted) {
    if (!holds) add(fmt::format("{} is {}, accepted is {}", name, value, accepted));
  }
};

void check_sizes(const TrainOptions& o, OptionProblems& problems) {
  problems.require(o.max_steps >= 0, "max_steps", o.max_steps, "0 or more");
  problems.require(o.max_steps > 0 || o.max_seconds > 0 || o.num_train_epochs > 0,
                   "num_train_epochs", o.num_train_epochs, "more than 0");
  problems.require(o.max_seconds >= 0, "max_seconds", o.max_seconds, "0 or more");
  problems.require(o.per_device_train_batch_size > 0, "per_device_train_batch_size",
                   o.per_device_train_batch_size, "1 or more");
  problems.require(o.gradient_accumulation_steps > 0, "gradient_accumulation_steps",
                   o.gradient_accumulation_steps, "1 or more");
  problems.require(o.max_length > 1, "max_length", o.max_length, "2 or more");
  problems.require(o.logging_steps > 0, "logging_steps", o.logging_steps, "1 or more");
  problems.require(o.save_steps >= 0, "save_steps", o.save_steps, "0 or more");
  problems.require(o.eval_steps >= 0, "eval_steps", o.eval_steps, "0 or more");
  problems.require(o.save_total_limit >= 0, "save_total_limit", o.save_total_limit, "0 or more");
  problems.require(std::isfinite(o.save_minutes) && o.save_minutes >= 0, "save_minutes",
                   o.save_minutes, "0 (none by time) or more");
  problems.require(std::isfinite(o.wait_for_room) && o.wait_for_room >= 0, "wait_for_room",
                   o.wait_for_room, "0 (not at all) or more");
  if (!o.resume_from.empty() && !o.resume) problems.add("resume_from needs resume");
  if (o.save != "full" && o.save != "draft") {
    problems.add(
        fmt::format("save '{}' is unknown, accepted are full and draft", printable(o.save)));
  }
  if (o.eval_steps > 0 && o.eval_data.empty()) problems.add("eval_steps needs eval_data");
}

void check_optimizer(const TrainOptions& o, OptionProblems& problems) {
  const auto is_rate = [](double beta) { return beta >= 0 && beta < 1; };
  problems.require(std::isfinite(o.learning_rate) && o.learning_rate >= 0, "learning_rate",
                   o.learning_rate, "0 or more");
  problems.require(std::isfinite(o.weight_decay) && o.weight_decay >= 0, "weight_decay",
                   o.weight_decay, "0 or more");
  problems.require(is_rate(o.adam_beta1), "adam_beta1", o.adam_beta1, "at least 0 and below 1");
  problems.require(is_rate(o.adam_beta2), "adam_beta2", o.adam_beta2, "at least 0 and below 1");
  problems.require(o.adam_epsilon >= 0, "adam_epsilon", o.adam_epsilon, "0 or more");
  problems.require(o.max_grad_norm >= 0, "max_grad_norm", o.max_grad_norm, "0 (off) or more");
  problems.require(o.warmup_ratio >= 0 && o.warmup_ratio <= 1, "warmup_ratio", o.warmup_ratio,
                   "0 to 1");
  problems.require(o.warmup_steps >= 0, "warmup_steps", o.warmup_steps, "0 or more");
  const auto& types = lr_scheduler_types();
  if (std::find(types.begin(), types.end(), o.lr_scheduler_type) == types.end()) {
    problems.add(fmt::format("lr_scheduler_type '{}' is unknown, {}",
                             printable(o.lr_scheduler_type),
                             suggestion(o.lr_scheduler_type, types)));
  }
}

}  // namespace

void check_options(const TrainOptions& options) {
  OptionProblems problems;
  if (options.output.empty()) problems.add("output is not given");
  check_sizes(options, problems);
  check_optimizer(options, problems);
  problems.throw_in_a_line(ErrorCode::kInvalidArgument, "training options",
                           "see outrider train --help");
}

Json reproducible_options(const TrainOptions& options) {
  return {{"max_seconds", options.max_seconds},
          {"max_length", options.max_length},
          {"per_device_train_batch_size", options.per_device_train_batch_size},
          {"gradient_accumulation_steps", options.gradient_accumulation_steps},
          {"learning_rate", options.learning_rate},
          {"lr_scheduler_type", options.lr_scheduler_type},
          {"warmup_ratio", options.warmup_ratio},
          {"warmup_steps", options.warmup_steps},
          {"weight_decay", options.weight_decay},
          {"adam_beta1", options.adam_beta1},
          {"adam_beta2", options.adam_beta2},
          {"adam_epsilon", options.adam_epsilon},
          {"max_grad_norm", options.max_grad_norm},
          {"seed", options.seed}};
}

Json option_values(const TrainOptions& options) {
  auto values = reproducible_options(options);
  values.update({{"model", options.source.string()},
                 {"data", options.data.string()},
                 {"eval_data", options.eval_data.string()},
                 {"output", options.output.string()},
                 {"max_steps", options.max_steps},
                 {"num_train_epochs", options.num_train_epochs},
                 {"logging_steps", options.logging_steps},
                 {"save", options.save},
                 {"save_steps", options.save_steps},
                 {"save_minutes", options.save_minutes},
                 {"wait_for_room", options.wait_for_room},
                 {"save_total_limit", options.save_total_limit},
                 {"eval_steps", options.eval_steps}});
  return values;
}

int64_t planned_steps(const TrainOptions& options, int64_t batches_per_epoch) {
  if (options.max_steps > 0 || options.max_seconds > 0) return options.max_steps;
  const auto accumulation = options.gradient_accumulation_steps;
  const auto per_epoch = (batches_per_epoch + accumulation - 1) / accumulation;
  return static_cast<int64_t>(std::ceil(options.num_train_epochs * static_cast<double>(per_epoch)));
}

}  // namespace outrider
