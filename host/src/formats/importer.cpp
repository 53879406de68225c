#include "outrider/host/importer.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <set>

#include "checkpoint/base_identity.h"
#include "checkpoint/model_place.h"
#include "checkpoint/model_tensors.h"
#include "checkpoint/stored_model.h"
#include "checkpoint/strict_load.h"
#include "checkpoint/tensor_mismatches.h"
#include "convert/allocation_budget.h"
#include "convert/random_scope.h"
#include "formats/foreign_draft.h"
#include "outrider/error.h"
#include "outrider/host/convert.h"
#include "outrider/host/plugin_loader.h"
#include "outrider/problems.h"
#include "outrider/text.h"

namespace outrider {
namespace fs = std::filesystem;
namespace {

struct Candidate {
  std::string mode;
  ForeignFormat format;
};

// A plugin that cannot be loaded must not keep the others from reading a folder.
std::vector<Candidate> readers_of(const std::string& mode, const ImportOptions& options) {
  std::vector<Candidate> readers;
  try {
    for (auto& format : plugin_loader().load_mode(mode).descriptor->formats()) {
      if (format.read) readers.push_back({mode, std::move(format)});
    }
  } catch (const Error& error) {
    if (!options.mode.empty()) throw;
    if (options.on_note) {
      options.on_note(
          fmt::format("the formats of mode '{}' were left out: {}", mode, error.what()));
    }
  }
  return readers;
}

std::vector<Candidate> all_readers(const ImportOptions& options) {
  if (!options.mode.empty()) return readers_of(options.mode, options);
  std::vector<Candidate> all;
  for (const auto& mode : plugin_loader().modes()) {
    for (auto& reader : readers_of(mode, options)) all.push_back(std::move(reader));
  }
  return all;
}

std::vector<std::string> names_of(const std::vector<Candidate>& readers) {
  std::set<std::string> names;
  for (const auto& reader : readers) names.insert(reader.format.name);
  return {names.begin(), names.end()};
}

bool looks_like(const Candidate& reader, const fs::path& folder, const ImportOptions& options) {
  try {
    return reader.format.probe && reader.format.probe(folder);
  } catch (const std::exception& error) {
    // One plugin's defect must not keep the others from reading a folder.
    if (options.on_note) {
      options.on_note(fmt::format("format '{}' of mode '{}' was left out: {}", reader.format.name,
                                  reader.mode, printable(error.what())));
    }
    return false;
  }
}

std::vector<Candidate> matching(const std::vector<Candidate>& readers, const fs::path& folder,
                                const ImportOptions& options) {
  std::vector<Candidate> found;
  for (const auto& reader : readers) {
    if (looks_like(reader, folder, options)) found.push_back(reader);
  }
  return found;
}

[[noreturn]] void refuse_choice(const std::vector<Candidate>& fitting, const fs::path& folder,
                                const std::vector<Candidate>& readers) {
  if (fitting.empty()) {
    throw Error(
        ErrorCode::kUnknownFormat,
        fmt::format("{} looks like no format that can be imported", folder.string()),
        fmt::format("known are: {}; name one with --format", join(names_of(readers), ", ")));
  }
  std::vector<std::string> choices;
  for (const auto& one : fitting) {
    choices.push_back(fmt::format("--mode {} --format {}", one.mode, one.format.name));
  }
  throw Error(ErrorCode::kUnknownFormat,
              fmt::format("{} fits several formats:{}", folder.string(), indented(choices)),
              "choose one of these");
}

Candidate choose(const fs::path& folder, const ImportOptions& options) {
  const auto readers = all_readers(options);
  auto fitting = readers;
  if (!options.format.empty()) {
    std::erase_if(fitting, [&](auto& one) { return one.format.name != options.format; });
    if (fitting.empty()) {
      throw Error(ErrorCode::kUnknownFormat,
                  fmt::format("there is no format '{}' to import", printable(options.format)),
                  suggestion(options.format, names_of(readers)));
    }
  }
  if (options.format.empty() || fitting.size() > 1) fitting = matching(fitting, folder, options);
  if (fitting.size() != 1) refuse_choice(fitting, folder, readers);
  return fitting.front();
}

void check_folder(const fs::path& folder) {
  require_folder(folder, "give the folder of an exported draft, the one with config.json");
  require_no_git_lfs_pointers(folder);
  if (!fs::exists(folder / "config.json")) {
    throw Error(ErrorCode::kFileNotFound, fmt::format("{} has no config.json", folder.string()),
                "give the folder of an exported draft");
  }
}

// What the files say of their base, against the base that was given.
void check_fits_base(const ImportedDraft& draft, const ModelConfig& base, const fs::path& folder) {
  Problems problems;
  problems.add_all(size_differences(base, draft.base, "in the base", "in the draft's files"));
  problems.throw_in_a_line(ErrorCode::kIncompatibleCheckpoint, folder.string(),
                           "give the base that the draft was trained for with --base");
}

// What a config describes must not be far larger than the tensors beside it.
AllocationBudget budget_for(size_t stored_bytes) {
  constexpr size_t kSlack = 64 << 20;
  return {8 * stored_bytes + kSlack,  // of another type, and with initial values
          Error(ErrorCode::kTensorMismatch,
                "the config describes a draft far larger than the tensors beside it",
                "does the config.json belong to these tensors, and is the folder complete?")};
}

std::optional<std::string> numerics_of(const ImportedDraft& draft, const ImportOptions& options) {
  const auto recorded = draft.metadata.value("reference_numerics", Json());
  if (options.reference_numerics || !recorded.is_string()) return options.reference_numerics;
  return recorded.get<std::string>();
}

void attach(CausalLM& base, const ForeignDraft& read, size_t stored_bytes,
            const ImportOptions& options) {
  const auto budget = budget_for(stored_bytes);
  ConvertOptions convert;
  convert.on_note = options.on_note;
  convert.reference_numerics = numerics_of(read.draft, options);
  const ModeRequest request(std::vector<ModeRequest::Item>{{read.mode, read.draft.config}});
  speculative::convert(base, request, convert);
}

bool equals_base(const at::Tensor& copy, const at::Tensor& original) {
  if (copy.sizes() != original.sizes()) return false;
  const auto ours = original.cpu();
  return at::equal(copy.to(ours.scalar_type()), ours) ||
         at::equal(copy, ours.to(copy.scalar_type()));
}

void check_base_copies(const CausalLM& base, const TensorMap& copies,
                       TensorMismatches& mismatches) {
  const auto& head = base.head();
  for (const auto& [name, copy] : copies) {
    const auto ids =
        at::arange(head.vocab_size(), at::TensorOptions(at::kLong).device(base.device()));
    const auto original = name == "embed_tokens.weight" ? head.embedding(ids) : head.weight();
    if (!equals_base(copy, original)) {
      mismatches.add("differs from the base's, which a draft here cannot replace", name);
    }
  }
}

void load_tensors(const Draft& target, const ImportedDraft& draft, const StoredTensors& stored,
                  TensorMismatches& mismatches) {
  for (const auto& problem : draft.problems) mismatches.add(problem);
  load_strictly(
      tensors_of(target), stored, [](const std::string&) { return false; },
      draft.file_name ? draft.file_name : TensorName(std::identity()), mismatches);
}

void load_draft(const CausalLM& base, const ImportedDraft& draft, const StoredTensors& stored,
                const fs::path& folder) {
  TensorMismatches mismatches;
  load_tensors(*base.speculative_state().back().draft, draft, stored, mismatches);
  check_base_copies(base, draft.base_copies, mismatches);
  mismatches.finish(folder.string(), "docs/formats.md lists the tensors of each format");
}

}  // namespace

ForeignDraft read_foreign_draft(const fs::path& folder, const ImportOptions& options) {
  check_folder(folder);
  const auto chosen = choose(folder, options);
  ForeignDraft read{chosen.mode, chosen.format.name, chosen.format.read(folder)};
  if (read.draft.metadata.is_null()) read.draft.metadata = Json::object();  // nothing to say
  return read;
}

std::shared_ptr<Draft> build_foreign_draft(const CausalLM& base, const ForeignDraft& read,
                                           const fs::path& folder) {
  check_fits_base(read.draft, base.config(), folder);
  const auto stored = stored_tensors(read.draft.tensors);
  const auto budget = budget_for(total_bytes(stored));
  const auto& mode = *plugin_loader().load_mode(read.mode).descriptor;
  auto info = base.base_info();
  info.reference_numerics = numerics_of(read.draft, {}).value_or("");
  const RandomScope random(0);
  auto draft = mode.convert(info, mode.config_schema().resolve(read.draft.config)).draft;
  TensorMismatches mismatches;
  const at::NoGradGuard no_grad;
  load_tensors(*draft, read.draft, stored, mismatches);
  mismatches.finish(folder.string(), "docs/formats.md lists the tensors of each format");
  return draft;
}

ImportResult import_draft(CausalLM& base, const fs::path& folder, const ImportOptions& options) {
  const auto read = read_foreign_draft(folder, options);
  const auto& draft = read.draft;
  check_fits_base(draft, base.config(), folder);
  const auto stored = stored_tensors(draft.tensors);
  attach(base, read, total_bytes(stored), options);
  load_draft(base, draft, stored, folder);
  if (draft.notes && options.on_note) {
    const auto& metadata = base.speculative_state().back().state.metadata;
    for (const auto& note : draft.notes(metadata)) options.on_note(note);
  }
  return {read.mode, read.format};
}

}  // namespace outrider
