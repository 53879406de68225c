#include <ATen/ATen.h>
#include <fmt/format.h>

#include <map>
#include <set>

#include "check/check.h"
#include "check/mode_runs.h"
#include "check/process_state.h"
#include "machine/scratch_folder.h"
#include "outrider/error.h"
#include "outrider/files/json_file.h"
#include "outrider/host/checkpoint.h"
#include "outrider/host/exporter.h"
#include "outrider/host/importer.h"
#include "outrider/host/sha256.h"
#include "outrider/host/trainer.h"
#include "outrider/text.h"

namespace outrider::check {
namespace {

namespace fs = std::filesystem;

/// A model whose draft is no longer what its conversion makes of the seed.
std::shared_ptr<CausalLM> changed_model(const ModeSubject& subject) {
  const auto model = converted(subject);
  const at::NoGradGuard no_grad;
  for (const auto& item : model->named_parameters()) {
    if (is_draft_tensor(*model, item.key())) item.value().mul_(1.25).add_(0.01);
  }
  return model;
}

void save_folder(const CausalLM& model, const fs::path& folder) {
  SaveOptions options;
  save_pretrained(model, folder, options);
}

void require_same_model(const CausalLM& actual, const CausalLM& expected, const std::string& when) {
  require_equal(copied_tensors(actual), copied_tensors(expected), when);
  const auto& a = actual.speculative_state().back();
  const auto& b = expected.speculative_state().back();
  if (a.state.config != b.state.config) throw Failure(when + ", the config differs");
  if (a.state.metadata != b.state.metadata) throw Failure(when + ", the metadata differs");
  if (a.base_edits != b.base_edits) throw Failure(when + ", the edits of the base differ");
}

void require_same_loss(CausalLM& actual, CausalLM& expected, const std::string& when) {
  const at::NoGradGuard no_grad;
  actual.eval();
  expected.eval();
  const auto wanted = seeded_forward(expected, some_batch(expected));
  require_close(seeded_forward(actual, some_batch(actual)), wanted, 0.0, when);
}

std::string check_restore(const ModeSubject& subject) {
  const ScratchFolder scratch;
  const auto model = changed_model(subject);
  save_folder(*model, scratch / "folder");
  const auto process = ProcessState::now();
  const auto restored = from_pretrained(scratch / "folder");
  require_same_process(process, "restoring");
  require_same_model(*restored, *model, "after save and restore of a folder");
  require_same_loss(*restored, *model, "after save and restore of a folder");
  save(*model, scratch / "file.safetensors");
  const auto base = subject.base.model();
  restore(*base, scratch / "file.safetensors");
  require_same_model(*base, *model, "after save and restore of a file");
  require_same_loss(*base, *model, "after save and restore of a file");
  return "a folder and a file give back the same bits and losses";
}

/// Token shards of `count` conversations, as `outrider data prepare` writes them.
void write_shards(const fs::path& folder, int64_t vocab_size, int64_t count) {
  constexpr int64_t kLength = 20;
  const auto ids = some_tokens(count, kLength, vocab_size, 41).to(at::kInt).flatten();
  const auto file = folder / "shard-00000.safetensors";
  fs::create_directories(folder);
  write_tensors(file, {{"input_ids", ids},
                       {"loss_mask", at::ones({ids.numel()}, at::kByte)},
                       {"offsets", at::arange(count + 1, at::kLong) * kLength}});
  write_json_file(folder / "shards.json",
                  {{"format_version", 1},
                   {"kind", "tokens"},
                   {"vocab_size", vocab_size},
                   {"shards", Json::array({{{"file", file.filename().string()},
                                            {"sha256", sha256_of_file(file)},
                                            {"conversations", count},
                                            {"tokens", ids.numel()}}})}});
}

struct Stopped {};

TrainOptions six_steps(const ScratchFolder& scratch, const char* run) {
  TrainOptions options;
  options.data = scratch / "shards";
  options.output = scratch / run;
  options.source = scratch / "converted";
  options.max_steps = 6;
  options.save_steps = 3;
  options.per_device_train_batch_size = 2;
  options.logging_steps = 1;
  options.learning_rate = 1e-3;
  options.progress = false;
  return options;
}

void train_until(const TrainOptions& options, int64_t last_step) {
  const auto model = from_pretrained(options.source);
  try {
    train(*model, options, [&](const Json& metrics) {
      if (metrics.value("step", int64_t{0}) > last_step) throw Stopped{};
    });
  } catch (const Stopped&) {
  }
}

std::string check_resume(const ModeSubject& subject) {
  const ScratchFolder scratch;
  const auto model = converted(subject);
  save_folder(*model, scratch / "converted");
  write_shards(scratch / "shards", model->config().vocab_size, 8);
  auto options = six_steps(scratch, "whole");
  train_until(options, options.max_steps);
  options = six_steps(scratch, "resumed");
  train_until(options, 4);
  if (fs::exists(options.output / "final")) throw Failure("the run could not be interrupted");
  options.resume = true;
  train_until(options, options.max_steps);
  require_same_model(*from_pretrained(scratch / "resumed" / "final"),
                     *from_pretrained(scratch / "whole" / "final"),
                     "a run of 6 steps and one that resumed after 3 differ");
  return "6 steps and 3 + 3 give the same bits";
}

/// "" where the draft came back, else why it was not tried.
std::string check_format(const ModeSubject& subject, const CausalLM& model,
                         const std::string& format) {
  const ScratchFolder scratch;
  ExportOptions options;
  options.format = format;
  options.mode = subject.mode.name();
  try {
    export_draft(model, options, scratch / "exported");
  } catch (const Error& e) {
    if (e.code() == ErrorCode::kUnsupported) return e.what();
    throw;
  }
  const auto base = subject.base.model();
  ImportOptions import_options;
  import_options.format = format;
  import_options.mode = subject.mode.name();
  import_draft(*base, scratch / "exported", import_options);
  require_equal(copied_tensors(*base), copied_tensors(model), "after export and import");
  if (base->speculative_state().back().state.config !=
      model.speculative_state().back().state.config) {
    throw Failure("after export and import, the config differs");
  }
  return {};
}

struct NamedConfig {
  std::string name;
  Json config;
};

/// The config that is checked, and each preset under it: a format may hold the drafts of one alone.
std::vector<NamedConfig> configs_for_formats(const ModeSubject& subject) {
  std::vector<NamedConfig> configs = {{"", subject.config}};
  std::set<Json> seen = {subject.mode.config_schema().resolve(subject.config)};
  for (const auto& preset : subject.mode.presets()) {
    auto config = preset.overrides;
    config.merge_patch(subject.config);
    const bool is_new = seen.insert(subject.mode.config_schema().resolve(config)).second;
    if (is_new) configs.push_back({"preset " + preset.name + ", ", config});
  }
  return configs;
}

struct FormatResults {
  std::set<std::string> passed;
  std::map<std::string, std::string> refused;  // why, of the last config
  std::vector<std::string> failed;
};

void try_formats(const ModeSubject& subject, const std::string& config, FormatResults& results) {
  const auto model = changed_model(subject);
  for (const auto& format : subject.mode.formats()) {
    if (!format.write || !format.read) continue;
    try {
      const auto reason = check_format(subject, *model, format.name);
      if (reason.empty()) results.passed.insert(format.name);
      if (!reason.empty()) results.refused[format.name] = reason;
    } catch (const std::exception& e) {
      results.failed.push_back(config + format.name + ": " + text_of(e));
    }
  }
}

std::string check_formats(const ModeSubject& subject) {
  FormatResults results;
  const auto configs = configs_for_formats(subject);
  for (const auto& [name, config] : configs) {
    try_formats({subject.mode, subject.base, config}, name, results);
  }
  if (!results.failed.empty()) throw Failure(join(results.failed, "; "));
  std::vector<std::string> left_out;
  for (const auto& [format, reason] : results.refused) {
    if (!results.passed.contains(format))
      left_out.push_back(fmt::format("{} ({})", format, reason));
  }
  const auto rest = left_out.empty() ? "" : "for no config: " + join(left_out, "; ");
  if (results.passed.empty()) throw Skip(rest.empty() ? "no format is written and read" : rest);
  const std::vector<std::string> passed(results.passed.begin(), results.passed.end());
  const auto tried = configs.size() > 1 ? fmt::format(" of {} configs", configs.size()) : "";
  return fmt::format("{} give back every tensor{}{}{}", join(passed, ", "), tried,
                     rest.empty() ? "" : "; ", rest);
}

constexpr ModeCheck kStorageChecks[] = {
    {"restore", "what is saved comes back, as a folder and as a file", check_restore},
    {"resume", "a training run that was interrupted ends with the bits of one that was not",
     check_resume},
    {"formats", "export and import give back every tensor", check_formats}};

}  // namespace

std::span<const ModeCheck> storage_checks() { return kStorageChecks; }

}  // namespace outrider::check
