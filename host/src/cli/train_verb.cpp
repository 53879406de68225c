#include <fmt/format.h>

#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/app.h"
#include "cli/model_options.h"
#include "cli/schema_options.h"
#include "distributed/process_group.h"
#include "distributed/sharded_layers.h"
#include "machine/python_tool.h"
#include "outrider/host/checkpoint.h"
#include "outrider/host/trainer.h"
#include "outrider/text.h"
#include "report/step_label.h"
#include "trainer/progress.h"
#include "trainer/resume_point.h"
#include "trainer/run_folder.h"
#include "trainer/train_options.h"

namespace outrider::cli {
namespace fs = std::filesystem;
namespace {

struct TrainArguments {
  TrainOptions options;
  std::shared_ptr<const Json> settings;  // those that were given
  ModelOptions model;
};

void add_run_options(CLI::App& verb, TrainArguments& a) {
  auto& o = a.options;
  verb.add_option("model", o.source, "Converted model folder")->required()->type_name("DIR");
  verb.add_option("--data", o.data, "Token shards to train on")->required()->type_name("DIR");
  verb.add_option("--out", o.output,
                  "Folder of the run: checkpoints, best, final, metrics.jsonl, report.html")
      ->required()
      ->type_name("DIR");
  verb.add_option("--eval-data", o.eval_data, "Held-out token shards")->type_name("DIR");
  verb.add_option(
          "--eval-prompts", o.eval_prompts,
          "JSON Lines as `generate` reads them: decoded with the drafts as training goes on")
      ->type_name("FILE");
  add_base_option(verb, o.base);
  verb.add_flag("--resume", o.resume, "Continue the run in --out where it stopped");
  verb.add_option("--resume-from", o.resume_from,
                  "The same from this checkpoint of the run, such as checkpoint-500")
      ->type_name("CHECKPOINT");
  add_model_options(verb, a.model);
  verb.add_flag("--shard-base", o.shard_base,
                "Several processes: each holds a part of the base's layers, not all of them");
  verb.add_option(
          "--trace-steps", o.trace_steps,
          "Record this many steps, after three, in trace.json of the run: what the host and "
          "the device did when, for Perfetto")
      ->check(CLI::Range(int64_t{1}, int64_t{100}));
  verb.add_option("--seed", o.seed, "Decides data order and random draws")->capture_default_str();
}

std::string decimals(const Json& number, int digits) {
  return number.is_number() ? fmt::format("{:.{}f}", number.get<double>(), digits) : "-";
}

void add_rows(Table& table, const std::string& data, const Json& drafts) {
  for (const auto& draft : drafts) {
    const auto mode = draft["mode"].get<std::string>();
    for (size_t i = 0; i < draft["steps"].size(); ++i) {
      const auto& step = draft["steps"][i];
      const auto label =
          fmt::format("{} ({})", report::step_label(i), step["name"].get<std::string>());
      table.add({data, mode, label, decimals(step["loss"], 4), decimals(step["accuracy"], 3),
                 decimals(step["overlap"], 3)});
    }
    table.add({data, mode, "acceptance length", "",
               decimals(draft["expected_acceptance_length"], 2),
               decimals(draft["expected_acceptance_length_sampling"], 2)});
  }
}

void add_decoded_rows(Table& table, const Json& drafts) {
  for (const auto& draft : drafts) {
    table.add({"decoded", draft["mode"].get<std::string>(), "acceptance length", "",
               decimals(draft["acceptance_length"], 2),
               fmt::format("({} - {})", decimals(draft["interval"][0], 2),
                           decimals(draft["interval"][1], 2))});
  }
}

void print_run(const Json& summary) {
  fmt::print("{} steps ({} epochs) in {}; {} trained parameters\n", summary["steps"].dump(),
             decimals(summary["epochs"], 2),
             format_duration(summary["elapsed_seconds"].get<double>()),
             format_count(summary["trained_parameters"].get<double>()));
  fmt::print("written to {}\n", summary["final"].get<std::string>());
  if (const auto& best = summary["best"]; best.is_object()) {
    fmt::print("best at step {}, held-out loss {}: {}\n", best["step"].dump(),
               decimals(best["loss"], 4), best["folder"].get<std::string>());
  }
  fmt::print("report: {}\n", summary["report"].get<std::string>());
  Table table({"data", "mode", "predicts", "loss", "accuracy", "overlap"});
  if (summary["metrics"].is_object()) add_rows(table, "training", summary["metrics"]["drafts"]);
  if (summary["eval"].is_object()) add_rows(table, "held out", summary["eval"]["drafts"]);
  if (summary["decoding"].is_object()) add_decoded_rows(table, summary["decoding"]["drafts"]);
  table.print();
}

std::string quoted_for_shell(const std::string& argument) {
  constexpr const char* kPlain =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-./=:,+@%";
  if (!argument.empty() && argument.find_first_not_of(kPlain) == std::string::npos) return argument;
  std::string quoted = "'";
  for (const char c : argument) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

/// What this process was started with, as a shell would take it.
std::string command_line() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::vector<std::string> arguments;
  for (std::string argument; std::getline(file, argument, '\0');) {
    arguments.push_back(quoted_for_shell(argument));
  }
  return join(arguments, " ");
}

bool has_tokenizer(const fs::path& folder) {
  return fs::exists(folder / "tokenizer.json") || fs::exists(folder / "tokenizer_config.json");
}

/// The text of tokens, where the tokenizer is there and Python to run it; training needs neither.
TokenText token_text_of(const fs::path& model) {
  return
      [model](const auto& conversations) -> std::optional<std::vector<std::vector<std::string>>> {
        if (!has_tokenizer(model)) return std::nullopt;
        try {
          const auto answer = run_python_tool(
              "outrider.text.show",
              {"--model", fs::absolute(model).string(), "--stretches", Json(conversations).dump()},
              ToolNotes::kHidden);
          return answer.at("texts").get<std::vector<std::vector<std::string>>>();
        } catch (const std::exception&) {
          return std::nullopt;
        }
      };
}

/// The checkpoint to go on from; empty where there is none, and the weights are the source's.
fs::path checkpoint_to_load(const TrainOptions& options) {
  RunFolder::check(options.output, options.resume);
  if (!options.resume || RunFolder::is_finished(options.output)) return {};
  return resume_point(options.output, options.resume_from).value_or(fs::path());
}

/// The same in all processes: the first has its folder to itself.
fs::path agreed_checkpoint(const TrainOptions& options) {
  if (!options.processes) return checkpoint_to_load(options);
  return options.processes->from_first([&] { return checkpoint_to_load(options).string(); });
}

Json load_and_train(TrainOptions& options, LoadOptions load) {
  options.loaded_from = agreed_checkpoint(options);
  const auto& folder = options.loaded_from.empty() ? options.source : options.loaded_from;
  if (base_reference_of(folder)) load.base = options.base;
  const auto model = load_to_run(folder, load);
  return train(*model, options);
}

/// Each process has the GPU of its number on its machine, unless told which.
LoadOptions load_options(ModelOptions model, const std::optional<ProcessPlace>& place) {
  if (place && model.device == "cuda") model.device += fmt::format(":{}", place->local_rank);
  return with_options({}, model);
}

Json train_together(TrainOptions& options, LoadOptions load) {
  try {
    options.processes->use_device(load.device);
    load.check_base = options.processes->is_first();
    if (options.shard_base) {
      load.layers = std::make_shared<ShardedLayers>(options.processes->tensors_on(load.device));
    }
    auto summary = load_and_train(options, load);
    options.processes->leave();
    return summary;
  } catch (const Error& e) {
    options.processes->report_failure(e.what());
    throw;
  }
}

void run_train(const TrainArguments& a, const GlobalOptions& global) {
  const auto place = process_place();
  const auto load = load_options(a.model, place);
  use_plugins(global);
  auto options = a.options;
  auto settings = training_schema().dump(options);
  settings.update(*a.settings);
  static_cast<TrainingSettings&>(options) = training_schema().read(settings);
  options.resume |= !options.resume_from.empty();
  options.command_line = command_line();
  options.token_text = token_text_of(options.source);
  if (place) options.processes = std::make_shared<ProcessGroup>(*place);
  check_options(options);
  const auto summary = place ? train_together(options, load) : load_and_train(options, load);
  if (place && place->rank > 0) return;
  global.json ? print_json(summary) : print_run(summary);
}

}  // namespace

void add_train_verb(CLI::App& app, const GlobalOptions& global) {
  auto* verb =
      add_verb(app, "train", "Train the attached drafts of a converted model",
               "outrider train smol-eagle --data shards --eval-data held-out --out run \\\n"
               "      --num-train-epochs 2 --learning-rate 5e-4 --save-steps 500");
  const auto arguments = std::make_shared<TrainArguments>();
  add_run_options(*verb, *arguments);
  arguments->settings = add_schema_options(*verb, training_schema());
  verb->callback([arguments, &global] { run_train(*arguments, global); });
}

}  // namespace outrider::cli
