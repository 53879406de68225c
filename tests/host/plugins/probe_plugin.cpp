// Tells through an environment variable that code of it ran, and misbehaves as OUTRIDER_PROBE says.
// It registers no operators, so that copies of it can be loaded side by side.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "outrider/config/struct_schema.h"
#include "outrider/sdk/plugin.h"

namespace {

std::string behaviour() {
  const char* value = std::getenv("OUTRIDER_PROBE");
  return value == nullptr ? "" : value;
}

struct Canary {
  Canary() {
    setenv("OUTRIDER_PROBE_RAN", "yes", 1);
    if (behaviour() == "throw in a static constructor") throw std::runtime_error("too early");
  }
} canary;

struct ProbeConfig {
  int64_t size = 1;
};

const outrider::StructSchema<ProbeConfig>& probe_schema() {
  static const auto& schema = *new outrider::StructSchema<ProbeConfig>(
      outrider::StructSchema<ProbeConfig>("ProbeConfig")
          .field("size", &ProbeConfig::size, "Nothing depends on it.", {.minimum = 1}));
  return schema;
}

class ProbeMode final : public outrider::ModeDescriptor {
 public:
  explicit ProbeMode(std::string name) : name_(std::move(name)) {}

  std::string name() const override { return name_; }
  std::string description() const override { return "Converts nothing."; }
  const outrider::ConfigSchema& config_schema() const override { return probe_schema(); }
  std::vector<outrider::Preset> presets() const override {
    if (behaviour() == "bad preset") return {{"PROBE_CFG", "", {{"sise", 2}, {"size", 0}}}};
    return {{"PROBE_CFG", "", {{"size", 2}}}};
  }
  outrider::Conversion convert(const outrider::BaseInfo&, const outrider::Json&) const override {
    throw outrider::Error(outrider::ErrorCode::kUnsupported, "the probe converts nothing");
  }
  outrider::Conversion restore(const outrider::BaseInfo&, const outrider::Json&,
                               const outrider::Json&) const override {
    throw outrider::Error(outrider::ErrorCode::kUnsupported, "the probe restores nothing");
  }

 private:
  std::string name_;
};

}  // namespace

OUTRIDER_PLUGIN(registrar) {
  registrar.add(std::make_unique<ProbeMode>(behaviour() == "other mode" ? "surprise" : "probe"));
  if (behaviour() == "mode twice") registrar.add(std::make_unique<ProbeMode>("probe"));
  if (behaviour() == "throw") throw std::runtime_error("the probe refuses");
  if (behaviour() == "throw an int") throw 42;
  if (behaviour() == "null mode") registrar.add(nullptr);
}
