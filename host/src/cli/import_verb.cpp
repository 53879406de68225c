#include <fmt/format.h>

#include <memory>

#include "cli/app.h"
#include "outrider/host/checkpoint.h"
#include "outrider/host/importer.h"
#include "verify/probe.h"

namespace outrider::cli {
namespace {

struct ImportArguments {
  std::string base, format, mode, reference_numerics, dtype;
  std::filesystem::path folder, out;
  bool replace = false;
  int64_t max_shard_size = SaveOptions().max_shard_size;
};

void import_model(const ImportArguments& arguments, const GlobalOptions& global) {
  use_plugins(global);
  LoadOptions load;
  load.hash_weights = true;
  load.on_note = show_note;
  if (!arguments.dtype.empty()) load.dtype = parse_dtype(arguments.dtype);
  const auto model = from_pretrained(arguments.base, load);
  ImportOptions options;
  options.format = arguments.format;
  options.mode = arguments.mode;
  if (!arguments.reference_numerics.empty()) {
    options.reference_numerics = arguments.reference_numerics;
  }
  options.on_note = show_note;
  const auto result = import_draft(*model, arguments.folder, options);
  save_pretrained(*model, arguments.out,
                  {.source = arguments.base,
                   .replace = arguments.replace,
                   .max_shard_size = arguments.max_shard_size,
                   .complete = verify::probe_without_outputs(*model)});
  if (global.json) {
    return print_json({{"out", arguments.out.string()},
                       {"mode", result.mode},
                       {"format", result.format},
                       {"metadata", model->speculative_state().back().state.metadata}});
  }
  fmt::print("{}: read as format {}\nwritten to {}\n", result.mode, result.format,
             arguments.out.string());
}

}  // namespace

void add_import_verb(CLI::App& app, const GlobalOptions& global) {
  auto arguments = std::make_shared<ImportArguments>();
  auto* verb = add_verb(app, "import", "Attach a draft from another project's files to its base",
                        "outrider import EAGLE3-SmolLM2 --base SmolLM2 --out SmolLM2-eagle3");
  verb->add_option("DIR", arguments->folder, "Folder with the draft's config.json and tensors")
      ->required();
  verb->add_option("--base", arguments->base, "Folder of the base that the draft was trained for")
      ->required();
  verb->add_option("--out", arguments->out, "Folder to write")->required();
  verb->add_option("--format", arguments->format,
                   "Format name (default: the one that the folder looks like)");
  verb->add_option("--mode", arguments->mode, "Algorithm, where several know the format");
  verb->add_option("--reference-numerics", arguments->reference_numerics,
                   "The ModelOpt release that trained the draft: 0.47 or 0.42");
  verb->add_option("--dtype", arguments->dtype,
                   "float32, bfloat16 or float16 (default: the base's)");
  verb->add_flag("--replace", arguments->replace, "Replace an existing --out");
  add_shard_size_option(*verb, arguments->max_shard_size);
  verb->callback([arguments, &global] { import_model(*arguments, global); });
}

}  // namespace outrider::cli
