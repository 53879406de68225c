#include "wrong_plugins.h"

namespace outrider::testing {

std::function<void(ProbeFolder&)> bytes(std::function<void(Bytes&)> change) {
  return [change = std::move(change)](ProbeFolder& probe) {
    auto file = read_bytes(probe.file());
    change(file);
    write_bytes(probe.file(), file);
    probe.lock();
  };
}

std::function<void(ProbeFolder&)> stamp(std::function<void(PluginStamp&)> change) {
  return bytes([change = std::move(change)](Bytes& file) { edit_stamp(file, change); });
}

void check_wrong_plugins(const std::vector<WrongPlugin>& plugins) {
  for (const auto& plugin : plugins) {
    CAPTURE(plugin.title);
    ScopedVariable behaviour("OUTRIDER_PROBE", plugin.behaviour);
    ProbeFolder probe;
    plugin.damage(probe);
    check_error(plugin.code, plugin.part, [&] { probe.load(); });
    CHECK(probe.ran() == plugin.runs_code);
    CHECK(probe.registry.names().empty());
  }
}

}  // namespace outrider::testing
