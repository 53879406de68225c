#include <fmt/format.h>

#include <memory>

#include "cli/app.h"
#include "outrider/host/checkpoint.h"
#include "outrider/host/exporter.h"

namespace outrider::cli {
namespace {

struct ExportArguments {
  std::string model;
  ExportOptions options;
  std::filesystem::path out;
  LoadOptions load;
};

void export_model(const ExportArguments& arguments, const GlobalOptions& global) {
  use_plugins(global);
  const auto model = from_pretrained(arguments.model, arguments.load);
  export_draft(*model, arguments.options, arguments.out);
  if (global.json) {
    return print_json({{"out", arguments.out.string()}, {"format", arguments.options.format}});
  }
  fmt::print("exported as {} to {}\n", arguments.options.format, arguments.out.string());
}

}  // namespace

void add_export_verb(CLI::App& app, const GlobalOptions& global) {
  auto arguments = std::make_shared<ExportArguments>();
  auto* verb = add_verb(app, "export", "Write a draft in another project's format",
                        "outrider export SmolLM2-eagle3 --format hf --out exported");
  verb->add_option("DIR", arguments->model, "Converted model folder")->required();
  verb->add_option("--out", arguments->out, "Folder to write")->required();
  verb->add_option("--format", arguments->options.format,
                   "A format of the draft's plugin; `outrider mode show MODE` lists them")
      ->capture_default_str();
  verb->add_option("--mode", arguments->options.mode, "Which draft, when there are several");
  verb->add_option("--base-name", arguments->options.base_name,
                   "Name or folder of the base, for formats that record it");
  verb->add_flag(
      "--allow-train-serve-mismatch", arguments->options.allow_train_serve_mismatch,
      "Export a draft that will be served with other arithmetic than it was trained with");
  add_base_option(*verb, arguments->load.base);
  add_numerics_option(*verb, arguments->load.reference_numerics);
  verb->callback([arguments, &global] { export_model(*arguments, global); });
}

}  // namespace outrider::cli
