#include "verify/export_checks.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "formats/foreign_draft.h"
#include "machine/scratch_folder.h"
#include "outrider/checkpoint/safetensors.h"
#include "outrider/error.h"
#include "outrider/files/json_file.h"
#include "outrider/host/exporter.h"
#include "outrider/text.h"
#include "verify/difference.h"
#include "verify/path_checks.h"

namespace outrider::verify {
namespace {

namespace fs = std::filesystem;

/// A folder, and what its reader made of it; where it could not, why.
struct Reading {
  fs::path folder;
  std::optional<ForeignDraft> read;
  std::string problem;

  TensorMap tensors() const {
    TensorMap all;
    if (has_safetensors()) {
      const auto stored = SafetensorsFolder::open(folder);
      for (const auto& [name, entry] : stored.tensors()) {
        all[name] = tensor_over(entry.file, *entry.view);
      }
    } else if (read) {
      all = read->draft.tensors;
      all.insert(read->draft.base_copies.begin(), read->draft.base_copies.end());
    }
    return all;
  }

 private:
  bool has_safetensors() const {
    return fs::exists(folder / "model.safetensors") ||
           fs::exists(folder / "model.safetensors.index.json");
  }
};

bool is_about_choice(const Error& error) {
  return error.code() == ErrorCode::kUnknownFormat || error.code() == ErrorCode::kFileNotFound;
}

Reading reading_of(const fs::path& folder, const ImportOptions& options) {
  Reading reading{folder, {}, {}};
  try {
    reading.read = read_foreign_draft(folder, options);
  } catch (const Error& error) {
    if (is_about_choice(error)) throw;
    reading.problem = error.what();
  }
  return reading;
}

std::string cause_in(const std::string& text) {
  const auto cause = cause_of(text);
  return cause.empty() ? "weights" : cause;
}

const AttachedDraft& draft_of(const CausalLM& model, const std::string& mode) {
  for (const auto& attached : model.speculative_state()) {
    if (attached.state.mode == mode) return attached;
  }
  throw Error(ErrorCode::kNotConverted,
              fmt::format("the model has no draft of mode '{}', which the export holds", mode),
              "give the folder that was exported");
}

// Names, versions and types decide nothing of what a draft computes.
Checks that_matter(Checks found) {
  std::erase_if(found, [](const Check& check) { return check.cause == "config"; });
  return found;
}

Checks check_exported_config(const Reading& given, const Reading& expected) {
  const auto config = [](const Reading& reading) {
    return read_json_file(reading.folder / "config.json");
  };
  return or_same(that_matter(differences("export config", config(given), config(expected),
                                         "the model exports")),
                 "export config", "config.json is what the model exports");
}

bool are_equal(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes()) return false;
  return a.scalar_type() == b.scalar_type()
             ? at::equal(a, b)
             : at::equal(a.to(b.scalar_type()), b) || at::equal(a, b.to(a.scalar_type()));
}

std::string tensor_problem(const std::string& name, const at::Tensor* given,
                           const at::Tensor& expected) {
  if (!given) return "is missing";
  const bool is_base_copy = name.find("embed_tokens") != std::string::npos;
  if (given->sizes() != expected.sizes()) return "has another shape";
  return is_base_copy ? "is not the embedding of this base" : "has other values than the model's";
}

Checks check_exported_tensors(const Reading& given, const Reading& expected) {
  const auto now = given.tensors(), then = expected.tensors();
  Checks found;
  const auto add = [&](const std::string& name, const std::string& problem) {
    found.push_back({"export tensors",
                     Outcome::kDiffers,
                     cause_in(name),
                     fmt::format("{} {}", printable(name), problem),
                     {}});
  };
  for (const auto& [name, tensor] : then) {
    const auto it = now.find(name);
    const auto* other = it == now.end() ? nullptr : &it->second;
    if (!other || !are_equal(*other, tensor)) add(name, tensor_problem(name, other, tensor));
  }
  for (const auto& [name, tensor] : now) {
    if (!then.contains(name)) add(name, "is not in what the model exports");
  }
  return or_same(std::move(found), "export tensors", fmt::format("{} tensors", then.size()));
}

// What was found in the files explains what the logits say.
Checks explained_by(const Checks& found, Checks decode) {
  const auto causes = causes_in(found);
  for (auto& check : decode) {
    if (check.outcome == Outcome::kDiffers && !causes.empty()) check.cause = causes.front();
  }
  return decode;
}

Checks check_decode(const Reading& given, const AttachedDraft& trained, CausalLM& model,
                    const at::Tensor& ids) {
  constexpr const char* kName = "export decode";
  if (!given.read) return {{kName, Outcome::kDiffers, cause_in(given.problem), given.problem, {}}};
  try {
    const auto draft = build_foreign_draft(model, *given.read, given.folder);
    return check_draft_paths(kName, model, *trained.draft, *draft, ids);
  } catch (const Error& error) {
    return {{kName, Outcome::kDiffers, cause_in(error.what()), error.what(), {}}};
  }
}

}  // namespace

Checks check_export(const ExportedFolder& exported, CausalLM& model, const at::Tensor& ids) {
  const auto& state = model.speculative_state();
  ImportOptions options;
  options.format = exported.format;
  if (state.size() == 1) options.mode = state.front().state.mode;
  const auto given = reading_of(exported.path, options);
  if (!given.read) {
    return {{"export", Outcome::kDiffers, cause_in(given.problem), given.problem, {}}};
  }
  const auto& trained = draft_of(model, given.read->mode);
  Checks checks;
  const ScratchFolder scratch;
  const auto fresh = scratch / "export";
  export_draft(model,
               {.format = given.read->format,
                .mode = given.read->mode,
                .base_name = {},
                .allow_train_serve_mismatch = true},
               fresh);
  const auto expected = reading_of(fresh, {.format = given.read->format,
                                           .mode = given.read->mode,
                                           .reference_numerics = {},
                                           .on_note = {}});
  append(checks, check_exported_config(given, expected));
  append(checks, check_exported_tensors(given, expected));
  append(checks, explained_by(checks, check_decode(given, trained, model, ids)));
  return checks;
}

}  // namespace outrider::verify
