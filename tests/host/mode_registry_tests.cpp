#include <doctest/doctest.h>

#include "outrider/config/struct_schema.h"
#include "outrider/host/mode_registry.h"
#include "plugin_fixtures.h"

namespace outrider {
namespace {

using namespace testing;

struct FakeConfig {
  int64_t size = 1;
};

class FakeMode final : public ModeDescriptor {
 public:
  explicit FakeMode(std::string name, std::vector<Preset> presets = {}, bool twice = false)
      : name_(std::move(name)), presets_(std::move(presets)), schema_("FakeConfig") {
    schema_.field("size", &FakeConfig::size, "A size.");
    if (twice) schema_.field("size", &FakeConfig::size, "A size again.");
  }

  std::string name() const override { return name_; }
  std::string description() const override { return "A fake."; }
  const ConfigSchema& config_schema() const override { return schema_; }
  std::vector<Preset> presets() const override { return presets_; }
  Conversion convert(const BaseInfo&, const Json&) const override { return {}; }
  Conversion restore(const BaseInfo&, const Json&, const Json&) const override { return {}; }

 private:
  std::string name_;
  std::vector<Preset> presets_;
  StructSchema<FakeConfig> schema_;
};

using Modes = std::vector<std::unique_ptr<const ModeDescriptor>>;

Modes modes(const std::vector<std::string>& names) {
  Modes made;
  for (const auto& name : names) made.push_back(std::make_unique<FakeMode>(name));
  return made;
}

PluginInfo plugin(const std::string& name) {
  return {.path = {},
          .sha256 = {},
          .name = name,
          .version = SemVer::parse("1.2.3"),
          .modes = {},
          .torch_build = {},
          .cuda_archs = {}};
}

void check_malformed(std::unique_ptr<const ModeDescriptor> mode, const std::string& part) {
  SpeculativeDecodingModeRegistry registry;
  Modes all = modes({"fine"});
  all.push_back(std::move(mode));
  check_error(ErrorCode::kPluginRegisterFailed, part,
              [&] { registry.commit(plugin("fake"), std::move(all)); });
  CHECK(registry.names().empty());
}

TEST_CASE("committed modes are found under their plugin") {
  SpeculativeDecodingModeRegistry registry;
  registry.commit(plugin("b"), modes({"medusa", "hydra"}));
  registry.commit(plugin("a"), modes({"eagle"}));
  CHECK(registry.names() == std::vector<std::string>{"eagle", "hydra", "medusa"});
  CHECK(registry.get("hydra").plugin.name == "b");
  CHECK(registry.get("hydra").descriptor->name() == "hydra");
  CHECK(registry.find("none") == nullptr);
}

TEST_CASE("an unknown mode is refused with the nearest names") {
  SpeculativeDecodingModeRegistry registry;
  registry.commit(plugin("a"), modes({"eagle", "medusa"}));
  check_error(ErrorCode::kUnknownMode, "unknown mode 'medussa': did you mean 'medusa'?",
              [&] { registry.get("medussa"); });
}

TEST_CASE("one taken name keeps all modes of a plugin out, and every taken name is reported") {
  SpeculativeDecodingModeRegistry registry;
  registry.commit(plugin("a"), modes({"eagle", "medusa"}));
  const auto commit = [&] { registry.commit(plugin("b"), modes({"hydra", "medusa", "eagle"})); };
  check_error(ErrorCode::kPluginConflict, "plugin b 1.2.3 cannot be used", commit);
  check_error(ErrorCode::kPluginConflict,
              "mode 'eagle' is already provided by plugin a 1.2.3; mode 'medusa' is already",
              commit);
  CHECK(registry.names() == std::vector<std::string>{"eagle", "medusa"});
  CHECK(registry.get("medusa").plugin.name == "a");
}

TEST_CASE("a mode that is registered twice, or malformed, keeps the plugin out") {
  check_malformed(std::make_unique<FakeMode>("fine"), "mode 'fine' is registered twice");
  check_malformed(std::make_unique<FakeMode>("a", std::vector<Preset>{}, true),
                  "mode 'a': config field 'size' is declared twice");
  check_malformed(std::make_unique<FakeMode>("a", std::vector<Preset>{{"P", "", Json::object()},
                                                                      {"P", "", Json::object()}}),
                  "mode 'a': preset 'P' occurs twice");
  check_malformed(std::make_unique<FakeMode>("a", std::vector<Preset>{{"P", "", {{"sise", 1}}}}),
                  "mode 'a': preset 'P': ");
}

}  // namespace
}  // namespace outrider
