#include <ATen/ATen.h>
#include <doctest/doctest.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <functional>
#include <limits>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "outrider/files/json_file.h"
#include "outrider/host/checkpoint.h"
#include "outrider/host/held_out.h"
#include "outrider/host/token_shards.h"
#include "outrider/host/trainer.h"
#include "tiny_training.h"
#include "trainer/training_state.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;
using testing::tiny_model;

/// Tiny data and the options of a run over it.
struct Run {
  Run() {
    testing::write_tiny_shards(folder.path() / "data", 22);
    options.data = folder.path() / "data";
    options.output = folder.path() / "run";
    options.max_steps = 12;
    options.per_device_train_batch_size = 2;
    options.gradient_accumulation_steps = 2;
    options.learning_rate = 0.1;
    options.weight_decay = 0.01;
    options.warmup_steps = 2;
    options.logging_steps = 3;
    options.save_minutes = 0;
    options.wait_for_room = 0;
    options.progress = false;
  }

  /// The message and hint of what train() throws.
  std::string failure(ErrorCode code, CausalLM& model,
                      const MetricsCallback& on_metrics = {}) const {
    return testing::failure(code, [&] { train(model, options, on_metrics); });
  }

  testing::TemporaryFolder folder;
  TrainOptions options;
};

/// The lines of metrics.jsonl without what depends on time and memory.
std::vector<Json> metrics(const fs::path& run) {
  std::vector<Json> lines;
  std::ifstream file(run / "metrics.jsonl");
  for (std::string line; std::getline(file, line);) {
    auto json = Json::parse(line);
    for (const auto* key :
         {"elapsed_seconds", "tokens_per_second", "trained_tokens_per_second", "peak_memory_mib"}) {
      CHECK((json.contains("eval") || json.erase(key) == 1));
      json.erase(key);
    }
    lines.push_back(std::move(json));
  }
  return lines;
}

void check_same_weights(const CausalLM& a, const CausalLM& b) {
  const auto left = a.named_parameters(), right = b.named_parameters();
  REQUIRE(left.size() == right.size());
  for (const auto& item : left) CHECK(at::equal(item.value(), right[item.key()]));
}

TEST_CASE("training lowers the loss, writes metrics and a final folder") {
  Run run;
  run.options.eval_data = run.options.data;
  run.options.eval_steps = 6;
  const auto model = tiny_model();
  const auto base = model->head().weight().clone();
  std::vector<Json> watched;
  const auto summary =
      train(*model, run.options, [&](const Json& line) { watched.push_back(line); });

  CHECK(at::equal(model->head().weight(), base));
  CHECK(summary["steps"] == 12);
  CHECK(summary["trained_parameters"] == 8 * 8 * 2 + 8);
  CHECK(fs::exists(run.options.output / "final" / "config.json"));
  const auto lines = metrics(run.options.output);
  REQUIRE(lines.size() == 6);
  CHECK(watched.size() == 6);
  CHECK(lines[0]["step"] == 3);
  CHECK(lines[0]["epoch"].get<double>() == doctest::Approx(6.0 / 11));
  CHECK(lines[0]["learning_rate"].get<double>() == doctest::Approx(0.1));
  CHECK(lines[1]["learning_rate"].get<double>() == doctest::Approx(0.1 * 7 / 10));
  CHECK(lines[4]["loss"].get<double>() < 0.9 * lines[0]["loss"].get<double>());
  const auto& draft = lines[0]["drafts"][0];
  CHECK(draft["mode"] == "tiny_trained");
  CHECK(draft["steps"][1]["name"] == "step_1");
  CHECK(lines[2]["eval"]["conversations"] == 22);
  CHECK(lines[5]["eval"] == summary["eval"]);
}

TEST_CASE("a resumed run gives the bits of one that was never stopped") {
  Run whole, half;
  whole.options.save_steps = half.options.save_steps = 5;  // within a logging interval
  const auto straight = tiny_model();
  train(*straight, whole.options);

  const auto stopped = tiny_model();
  const auto error = half.failure(ErrorCode::kInterrupted, *stopped, [](const Json& line) {
    if (line["step"] == 6) raise(SIGINT);
  });
  CHECK_CONTAINS(error, "interrupted after step 6");
  CHECK_CONTAINS(error, "--resume");
  CHECK(fs::exists(half.options.output / "checkpoint-6" / "training_state.json"));
  // As if it had been killed later: continue from step 5.
  fs::remove_all(half.options.output / "checkpoint-6");

  half.options.resume = true;
  const auto resumed = tiny_model();
  train(*resumed, half.options);
  check_same_weights(*straight, *resumed);
  CHECK(metrics(half.options.output) == metrics(whole.options.output));
  CHECK(fs::exists(half.options.output / "final" / "config.json"));
}

TEST_CASE("a model that came from the checkpoint is not loaded again, and must be the newest") {
  Run whole, half;
  whole.options.save_steps = half.options.save_steps = 5;
  const auto straight = tiny_model();
  train(*straight, whole.options);
  const auto stopped = tiny_model();
  half.failure(ErrorCode::kInterrupted, *stopped, [](const Json& line) {
    if (line["step"] == 6) raise(SIGINT);
  });

  half.options.resume = true;
  half.options.loaded_from = half.options.output / "checkpoint-5";
  const auto late = tiny_model();
  load_weights(*late, half.options.loaded_from / "model.safetensors");
  const auto error = failure(ErrorCode::kInvalidArgument, [&] { train(*late, half.options); });
  CHECK_CONTAINS(error, "another process has trained");

  fs::remove_all(half.options.output / "checkpoint-6");
  const auto resumed = tiny_model();
  load_weights(*resumed, half.options.loaded_from / "model.safetensors");
  train(*resumed, half.options);
  check_same_weights(*straight, *resumed);
  CHECK(metrics(half.options.output) == metrics(whole.options.output));
}

/// A run that evaluates after 4, 8 and 12 steps: 6 batches each, after 8 losses of training each.
struct EvaluatedRun : Run {
  EvaluatedRun() {
    options.eval_data = options.data;
    options.eval_steps = options.logging_steps = 4;
    options.per_device_train_batch_size = 4;
  }
};

TEST_CASE("an interrupted evaluation is made when the run goes on") {
  EvaluatedRun whole;
  const auto straight = tiny_model();
  const auto summary = train(*straight, whole.options);
  // In the middle of the first evaluation, and of the one at the end.
  for (const auto& [call, step] : {std::pair(8 + 3, 4), std::pair(3 * 8 + 2 * 6 + 2, 12)}) {
    CAPTURE(step);
    EvaluatedRun cut;
    const auto model = tiny_model();
    testing::act_in_tiny_loss(*model, call, [] { raise(SIGINT); });
    const auto error = cut.failure(ErrorCode::kInterrupted, *model);
    CHECK_CONTAINS(error, "interrupted after step " + std::to_string(step));
    CHECK_CONTAINS(error, "checkpoint-" + std::to_string(step) + "' holds everything so far");
    for (const auto& line : metrics(cut.options.output)) {
      CHECK_FALSE((line["step"] == step && line.contains("eval")));
    }
    cut.options.resume = true;
    const auto resumed = tiny_model();
    const auto again = train(*resumed, cut.options);
    check_same_weights(*straight, *resumed);
    CHECK(metrics(cut.options.output) == metrics(whole.options.output));
    CHECK(again["eval"] == summary["eval"]);
    CHECK(again["metrics"]["drafts"] == summary["metrics"]["drafts"]);
  }
}

TEST_CASE("checkpoints by time change nothing, and the newest two are kept") {
  Run whole, timed;
  const auto straight = tiny_model();
  train(*straight, whole.options);
  CHECK_FALSE(fs::exists(whole.options.output / "checkpoint-1"));

  timed.options.save_minutes = 1e-9;  // after every step
  timed.options.save_total_limit = 0;
  timed.options.save_steps = 5;
  const auto model = tiny_model();
  train(*model, timed.options);
  check_same_weights(*straight, *model);
  CHECK(metrics(timed.options.output) == metrics(whole.options.output));
  std::vector<int64_t> kept;
  for (const auto& folder : checkpoint_folders(timed.options.output)) {
    kept.push_back(*step_in_name(folder));
  }
  CHECK(kept == std::vector<int64_t>{5, 9, 10, 11});  // 5 and 10 were asked for

  fs::remove_all(timed.options.output / "final");
  fs::remove_all(timed.options.output / "checkpoint-10");
  fs::remove_all(timed.options.output / "checkpoint-11");
  timed.options.resume = true;
  const auto resumed = tiny_model();
  train(*resumed, timed.options);
  check_same_weights(*straight, *resumed);
  CHECK(metrics(timed.options.output) == metrics(whole.options.output));
}

TEST_CASE("a damaged checkpoint is refused, and the older one that is whole taken by choice") {
  Run whole, run;
  const auto straight = tiny_model();
  whole.options.save_steps = run.options.save_steps = 3;
  whole.options.save_total_limit = run.options.save_total_limit = 0;
  train(*straight, whole.options);
  run.failure(ErrorCode::kInterrupted, *tiny_model(), [](const Json& line) {
    if (line["step"] == 9) raise(SIGINT);
  });
  run.options.resume = true;
  const auto folder = run.options.output;
  auto bytes = fs::file_size(folder / "checkpoint-9/model.safetensors");
  fs::resize_file(folder / "checkpoint-9/model.safetensors", bytes - 8);
  fs::remove(folder / "checkpoint-6/training_state.safetensors");
  const auto error = run.failure(ErrorCode::kInvalidFile, *tiny_model());
  CHECK_CONTAINS(error, "checkpoint-9' is damaged: model.safetensors (");
  CHECK_CONTAINS(error,
                 "checkpoint-3' is older and whole: continue from it with --resume-from "
                 "checkpoint-3");

  run.options.resume_from = "checkpoint-4";
  CHECK_CONTAINS(run.failure(ErrorCode::kInvalidArgument, *tiny_model()),
                 "no checkpoint of the run in '" + folder.string() +
                     "'\nit has checkpoint-3, checkpoint-6, checkpoint-9");
  run.options.resume_from = folder / "checkpoint-3";
  const auto resumed = tiny_model();
  train(*resumed, run.options);
  check_same_weights(*straight, *resumed);
  CHECK(metrics(folder) == metrics(whole.options.output));
  CHECK(fs::exists(folder / "set-aside-checkpoint-6"));
  CHECK(fs::exists(folder / "set-aside-checkpoint-9"));
  CHECK(damages(folder / "checkpoint-9").empty());
}

/// Weights that are finite, of a layer that computes what is not.
void make_base_overflow(CausalLM& model) {
  const at::NoGradGuard no_grad;
  auto parameters = model.named_parameters();
  parameters["model.layers.0.mlp.up_proj.weight"].fill_(1e6);
  parameters["model.layers.0.mlp.down_proj.weight"].fill_(3e38);
}

TEST_CASE("a base whose values are not finite is named, not the learning rate") {
  Run run;
  const auto model = tiny_model();
  make_base_overflow(*model);
  const auto error = run.failure(ErrorCode::kNonFinite, *model);
  CHECK_CONTAINS(error, "step 1: loss ");
  CHECK_CONTAINS(error,
                 ": the base computes values that are not finite in float32, from decoder "
                 "layer 0 (of 0 to 0) on: conversation ");
  CHECK_CONTAINS(error, "\nleave this conversation out");
  CHECK(error.find("--learning-rate") == error.npos);

  const auto damaged = tiny_model();
  {
    const at::NoGradGuard no_grad;
    damaged->named_parameters()["model.layers.0.mlp.up_proj.weight"][3][5] =
        std::numeric_limits<float>::quiet_NaN();
  }
  CHECK_CONTAINS(run.failure(ErrorCode::kNonFinite, *damaged),
                 "its weights hold values that are not finite: 'model.layers.0.mlp.up_proj.weight'"
                 "\nthe base is damaged");
}

TEST_CASE("signals have their old effect after a run") {
  Run run;
  run.options.max_steps = 1;
  struct sigaction before = {}, after = {};
  sigaction(SIGTERM, nullptr, &before);
  train(*tiny_model(), run.options);
  sigaction(SIGTERM, nullptr, &after);
  CHECK((before.sa_handler == after.sa_handler));
}

TEST_CASE("a run is resumed with the options it was started with, or not at all") {
  Run run;
  run.options.save_steps = 6;
  train(*tiny_model(), run.options);
  run.options.resume = true;
  run.options.seed = 1;
  run.options.learning_rate = 0.5;
  const auto error = run.failure(ErrorCode::kInvalidArgument, *tiny_model());
  CHECK_CONTAINS(error, "learning_rate is 0.5, was 0.1; seed is 1, was 42");

  run.options.output = run.folder.path() / "elsewhere";
  CHECK_CONTAINS(run.failure(ErrorCode::kFileNotFound, *tiny_model()),
                 "no such folder, so there is no run to resume");
}

TEST_CASE("a run does not start in a folder with something in it") {
  Run run;
  fs::create_directory(run.options.output);
  std::ofstream(run.options.output / "notes") << "mine";
  const auto error = run.failure(ErrorCode::kFileExists, *tiny_model());
  CHECK_CONTAINS(error, "exists and is not an empty folder\nchoose another folder");
  run.options.resume = true;
  CHECK_CONTAINS(run.failure(ErrorCode::kInvalidArgument, *tiny_model()),
                 "is no folder of a run: it has neither run.json nor a checkpoint");
  CHECK(fs::exists(run.options.output / "notes"));
}

/// Throws what no one catches, as a machine that stops: nothing is saved, nothing tidied up.
struct PulledPlug {};

TEST_CASE("a run that ended before its first checkpoint starts again from step 0") {
  Run whole, cut;
  const auto straight = tiny_model();
  train(*straight, whole.options);
  CHECK_THROWS_AS(train(*tiny_model(), cut.options,
                        [](const Json& line) {
                          if (line["step"] == 6) throw PulledPlug();
                        }),
                  PulledPlug);
  REQUIRE(metrics(cut.options.output).size() == 2);
  CHECK_CONTAINS(cut.failure(ErrorCode::kFileExists, *tiny_model()), "--resume");

  cut.options.resume = true;
  cut.options.seed = 1;
  const auto error = cut.failure(ErrorCode::kInvalidArgument, *tiny_model());
  CHECK_CONTAINS(error, "run.json' is from a run with other options: seed is 1, was 42");
  cut.options.seed = 42;
  const auto resumed = tiny_model();
  train(*resumed, cut.options);
  check_same_weights(*straight, *resumed);
  CHECK(metrics(cut.options.output) == metrics(whole.options.output));
  const auto record = read_json_file(cut.options.output / "run.json");
  CHECK(record["starts"].size() == 2);
  CHECK(record["starts"][1]["step"] == 0);
}

TEST_CASE("a finished run is left as it is") {
  Run run;
  const auto summary = train(*tiny_model(), run.options);
  const auto written = fs::last_write_time(run.options.output / "run.json");
  run.options.resume = true;
  CHECK(train(*tiny_model(), run.options) == summary);
  CHECK(fs::last_write_time(run.options.output / "run.json") == written);
  CHECK(metrics(run.options.output).size() == 4);
  fs::remove_all(run.options.output / "final");
  train(*tiny_model(), run.options);
  CHECK(fs::exists(run.options.output / "final"));
  CHECK(metrics(run.options.output).size() == 4);
}

TEST_CASE("a run that fails in its first step leaves nothing") {
  Run run;
  const auto model = tiny_model();
  testing::spoil_tiny_losses_from(*model, 1);
  run.failure(ErrorCode::kNonFinite, *model);
  CHECK_FALSE(fs::exists(run.options.output));
  fs::create_directory(run.options.output);
  run.failure(ErrorCode::kNonFinite, *model);
  CHECK(fs::is_empty(run.options.output));
}

TEST_CASE("the best checkpoint is the one with the lowest held-out loss") {
  Run run;
  run.options.eval_data = run.options.data;
  run.options.eval_steps = 3;
  run.options.save_steps = 3;
  run.options.save_total_limit = 1;
  const auto model = tiny_model();
  // Of four evaluations and two epochs with 11 passes each, the last evaluation is spoiled. Three
  // checkpoints and as many best models were saved before, each with a pass for its record.
  testing::spoil_tiny_losses_from(*model, 5 * 11 + 6 + 1);
  const auto summary = train(*model, run.options);
  const auto lines = metrics(run.options.output);
  double lowest = 1e9;
  int64_t step = 0;
  for (const auto& line : lines) {
    if (!line.contains("eval") || !line["eval"]["drafts"][0]["loss"].is_number()) continue;
    const auto loss = line["eval"]["drafts"][0]["loss"].get<double>();
    if (loss < lowest) step = line["step"];
    lowest = std::min(loss, lowest);
  }
  CHECK(std::isinf(summary["eval"]["drafts"][0]["loss"].get<double>()));
  const auto folder = run.options.output / "best";
  CHECK(summary["best"] == Json({{"folder", folder.string()}, {"step", step}, {"loss", lowest}}));
  const auto best = read_json_file(folder / "best.json");
  CHECK(best["step"] == step);
  CHECK(best["loss"] == lowest);
  CHECK(best["eval"]["conversations"] == 22);
  const auto restored = tiny_model();
  load_weights(*restored, folder / "model.safetensors");
  CHECK(evaluate(*restored, TrainingData(run.options.data, *restored), 2, 64).to_json() ==
        best["eval"]);
}

TEST_CASE("the best so far survives a restart, and other held-out data begins anew") {
  Run run;
  run.options.eval_data = run.options.data;
  run.options.eval_steps = 3;
  run.options.save_steps = 6;
  const auto stop_at = [](int64_t step) {
    return [step](const Json& line) {
      if (line["step"] == step && line.contains("eval")) raise(SIGINT);
    };
  };
  run.failure(ErrorCode::kInterrupted, *tiny_model(), stop_at(6));
  const auto file = run.options.output / "best" / "best.json";
  auto best = read_json_file(file);
  CHECK(best["step"] == 6);
  best["loss"] = 1e-3;  // not to be reached
  write_json_file(file, best);
  run.options.resume = true;
  run.failure(ErrorCode::kInterrupted, *tiny_model(), stop_at(9));
  CHECK(read_json_file(file) == best);

  testing::write_tiny_shards(run.folder.path() / "other", 9);
  run.options.eval_data = run.folder.path() / "other";
  CHECK(train(*tiny_model(), run.options)["best"]["step"] == 12);
  write_json_file(file, {{"step", 1}});
  fs::remove_all(run.options.output / "final");
  CHECK_CONTAINS(run.failure(ErrorCode::kInvalidFile, *tiny_model()), "'loss'");
}

TEST_CASE("time spent on evaluations is no training time") {
  using Clock = std::chrono::steady_clock;
  Run run;
  run.options.max_steps = 3;
  run.options.logging_steps = 1;
  run.options.per_device_train_batch_size = 22;  // all there are
  run.options.eval_data = run.options.data;
  run.options.eval_steps = 2;
  const double tokens = static_cast<double>(TokenShards::open(run.options.data).token_count());
  Clock::time_point resumed;
  double spent = 0, counted = 0;
  train(*tiny_model(), run.options, [&](const Json& line) {
    if (line["step"] == 2 && line.contains("eval")) {
      std::this_thread::sleep_for(std::chrono::milliseconds(500));
      resumed = Clock::now();
    }
    if (line["step"] != 3 || line.contains("eval")) return;
    spent = std::chrono::duration<double>(Clock::now() - resumed).count();
    counted = tokens / line["tokens_per_second"].get<double>();
  });
  // However slow the machine is, the step took no longer than what passed since the evaluation.
  CHECK(counted < spent + 0.25);
}

TEST_CASE("a loss that is not finite ends the run before it is saved") {
  Run run;
  run.options.save_steps = 2;
  const auto model = tiny_model();
  testing::spoil_tiny_losses_from(*model, 6);  // two losses per step: in step 3
  const auto error = run.failure(ErrorCode::kNonFinite, *model);
  CHECK_CONTAINS(error, "step 3: loss inf");
  CHECK_CONTAINS(error, "the batch held conversations ");
  CHECK(fs::exists(run.options.output / "checkpoint-2"));
  CHECK_FALSE(fs::exists(run.options.output / "checkpoint-4"));
}

TEST_CASE("a time limit ends a run and its schedule") {
  Run run;
  run.options.max_steps = 0;
  run.options.max_seconds = 0.2;
  run.options.warmup_steps = 0;
  const auto summary = train(*tiny_model(), run.options);
  CHECK(summary["elapsed_seconds"].get<double>() >= 0.2);
  CHECK(summary["steps"] >= 1);
  CHECK(summary["metrics"]["learning_rate"].get<double>() < 0.1);
}

TEST_CASE("conversations without a target before the cut are left out") {
  Run run;
  run.options.max_length = 3;  // targets begin at a third: within 3 tokens up to length 8
  const auto summary = train(*tiny_model(), run.options);
  CHECK(summary["conversations"].get<int>() + summary["skipped_conversations"].get<int>() == 22);
  CHECK(summary["skipped_conversations"] > 0);
  run.options.max_length = 2;
  run.options.output = run.folder.path() / "again";
  const auto error = run.failure(ErrorCode::kInvalidData, *tiny_model());
  CHECK_CONTAINS(error, "none of the 22 conversations has a training target in its first 2");
}

TEST_CASE("evaluation weighs batches by their trained positions and leaves no trace") {
  Run run;
  const auto model = tiny_model();
  const TrainingData data(run.options.data, *model);
  auto& draft = *model->speculative_state().front().draft;
  draft.eval();
  const auto before = at::rand({1});
  const auto together = evaluate(*model, data, 22, 64).to_json();
  CHECK(evaluate(*model, data, 22, 64).to_json() == together);
  CHECK_FALSE(draft.is_training());
  CHECK_FALSE(draft.parameters().front().grad().defined());
  CHECK(before.item<float>() != at::rand({1}).item<float>());
  CHECK(together["trained_tokens"] == data.tokens().trained_token_count());

  const auto apart = evaluate(*model, data, 5, 64).to_json();
  for (size_t step = 0; step < 2; ++step) {
    const auto& a = together["drafts"][0]["steps"][step];
    const auto& b = apart["drafts"][0]["steps"][step];
    CHECK(a["count"] == b["count"]);
    CHECK(a["loss"].get<double>() == doctest::Approx(b["loss"].get<double>()).epsilon(0.01));
  }
  const auto& steps = apart["drafts"][0]["steps"];
  const double first = steps[0]["accuracy"], second = steps[1]["accuracy"];
  CHECK(apart["drafts"][0]["expected_acceptance_length"].get<double>() ==
        doctest::Approx(1 + first + first * second));
  const double p = steps[0]["overlap"], q = steps[1]["overlap"];
  CHECK(apart["drafts"][0]["expected_acceptance_length_sampling"].get<double>() ==
        doctest::Approx(1 + p + p * q));
}

}  // namespace
}  // namespace outrider
