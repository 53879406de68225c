#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "cli/app.h"
#include "cli/decode_options.h"
#include "cli/verify_report.h"
#include "generate/prompt_file.h"
#include "generate/tokenized_prompts.h"
#include "outrider/error.h"
#include "verify/folder_verification.h"

namespace outrider::cli {
namespace {

struct VerifyArguments {
  LoadOptions load;
  ModelOptions options;
  verify::VerifyOptions verify;
  std::filesystem::path prompts;
};

// The longest of the prompts.
std::vector<int64_t> row_of(const VerifyArguments& arguments) {
  if (arguments.prompts.empty()) return {};
  const auto rows = prompt_tokens(read_prompt_file(arguments.prompts), arguments.verify.folder);
  return std::ranges::max(rows, {}, &std::vector<int64_t>::size);
}

void verify_model(const VerifyArguments& arguments, const GlobalOptions& global) {
  use_plugins(global);
  auto options = arguments.verify;
  options.tokens = row_of(arguments);
  options.load = [&] { return load_to_verify(options.folder, arguments.load, arguments.options); };
  const auto checks = verify::verify_folder(options);
  global.json ? print_json(verify::to_json(checks)) : print_checks(checks);
  require_same(checks);
}

}  // namespace

void add_verify_verb(CLI::App& app, const GlobalOptions& global) {
  auto arguments = std::make_shared<VerifyArguments>();
  auto* verb = add_verb(app, "verify",
                        "Check that a draft is decoded as it was trained, and name what differs",
                        "outrider verify SmolLM2-eagle3 --export exported");
  auto& options = arguments->verify;
  verb->add_option("DIR", options.folder, "Converted model folder")->required();
  verb->add_option("--prompts", arguments->prompts,
                   "JSON Lines file; the longest of its prompts is the row of tokens that is "
                   "compared (default: drawn tokens)");
  verb->add_option("--tokens", options.random_tokens, "Without --prompts: how many tokens")
      ->check(CLI::Range(8, 128))
      ->capture_default_str();
  verb->add_option("--export", options.exported,
                   "Folder that `outrider export` wrote, to be read again and compared with DIR");
  verb->add_option("--format", options.format,
                   "Format of that folder (default: the one that it looks like)");
  verb->add_option("--device", arguments->options.device, "cpu, cuda or cuda:N")
      ->capture_default_str();
  verb->add_option("--dtype", arguments->options.dtype,
                   "Compare in float32 (the default), float64, bfloat16 or float16, which see "
                   "large differences only");
  add_base_option(*verb, arguments->load.base);
  add_numerics_option(*verb, arguments->load.reference_numerics);
  verb->callback([arguments, &global] { verify_model(*arguments, global); });
}

}  // namespace outrider::cli
