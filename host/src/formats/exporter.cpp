#include "outrider/host/exporter.h"

#include <fmt/format.h>

#include "outrider/error.h"
#include "outrider/files/atomic_file.h"
#include "outrider/host/plugin_loader.h"
#include "outrider/text.h"

namespace outrider {
namespace {

const AttachedDraft& find_draft(const CausalLM& model, const std::string& mode) {
  const auto& state = model.speculative_state();
  std::vector<std::string> modes;
  for (const auto& attached : state) {
    if (attached.state.mode == mode || (mode.empty() && state.size() == 1)) return attached;
    modes.push_back(attached.state.mode);
  }
  if (state.empty()) {
    throw Error(ErrorCode::kNotConverted, "the model has no draft to export",
                "convert it first: outrider convert BASE --mode eagle --out DIR");
  }
  throw Error(ErrorCode::kInvalidArgument,
              mode.empty() ? "the model has several drafts"
                           : fmt::format("the model has no draft of mode '{}'", printable(mode)),
              fmt::format("choose one with --mode: {}", join(modes, ", ")));
}

ForeignFormat find_format(const AttachedDraft& draft, const std::string& name) {
  const auto formats = mode_registry().get(draft.state.mode).descriptor->formats();
  std::vector<std::string> names;
  for (const auto& format : formats) {
    if (format.name == name && format.write) return format;
    if (format.write) names.push_back(format.name);
  }
  if (names.empty()) {
    throw Error(ErrorCode::kUnknownFormat,
                fmt::format("mode '{}' has no export format", draft.state.mode));
  }
  const bool is_near = !nearest_names(name, names).empty();
  throw Error(ErrorCode::kUnknownFormat,
              fmt::format("mode '{}' has no export format '{}'", draft.state.mode, printable(name)),
              (is_near ? suggestion(name, names) + " " : "") + suggestion("", names));
}

}  // namespace

void export_draft(const CausalLM& model, const ExportOptions& options,
                  const std::filesystem::path& folder) {
  const auto& draft = find_draft(model, options.mode);
  const auto writer = find_format(draft, options.format);
  AtomicDirectory directory(folder);
  writer.write({.model = model,
                .draft = draft,
                .base_name = options.base_name,
                .allow_train_serve_mismatch = options.allow_train_serve_mismatch},
               directory.staging());
  directory.commit();
}

}  // namespace outrider
