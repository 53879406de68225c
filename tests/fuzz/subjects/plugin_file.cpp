#include "outrider/host/plugin_file.h"

#include "small_plugin.h"
#include "subject.h"

namespace outrider::fuzz {
namespace {

PluginStamp stamp(const char* draft_models) {
  auto stamp = host_stamp();
  std::string("eagle").copy(stamp.modes, sizeof(stamp.modes));
  std::string("LlamaForCausalLM,Qwen3ForCausalLM").copy(stamp.bases, sizeof(stamp.bases));
  std::string(draft_models).copy(stamp.draft_models, sizeof(stamp.draft_models));
  return stamp;
}

std::vector<std::string> plugin_file_seeds() {
  return {testing::small_plugin(stamp("")),
          testing::small_plugin(stamp("eagle/GegluForCausalLM"), std::string(64, 'x'))};
}

/// The file reader and the gates that decide by what it found.
void read_plugin_file(const std::string& bytes) {
  const auto facts = read_elf_facts(std::as_bytes(std::span(bytes)), "fuzzed");
  dependency_problems(facts);
  for (const auto& stamp : facts.stamps) incompatibilities(stamp, host_stamp());
}

}  // namespace

const Subject kPluginFile{
    "plugin_file", plugin_file_seeds, read_plugin_file, {"\0\1\2\4\5\6\x1e\x7f\xff,/.", 12}};

}  // namespace outrider::fuzz
