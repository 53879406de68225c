#include "outrider/checkpoint/metadata.h"

#include "outrider/files/json_file.h"
#include "subject.h"

namespace outrider::fuzz {
namespace {

std::vector<std::string> metadata_seeds() {
  return {
      R"({"format_version":1,"written_by":"outrider 0.1.0","base_model":{"layers":30},"modes":[]})",
      R"({"format_version":1,"written_by":"","base_model":{},"modes":[{"mode":"eagle",)"
      R"("plugin":{"name":"eagle","version":"0.1.0","range":"^0.1","sha256":""},)"
      R"("config_version":2,"config":{"steps":3,"decay":1.0},"metadata":{"ids":[1,2]},)"
      R"("requires":[{"name":"base","version":"1.0.0-rc.1","range":">=1.0.0-rc.1 <2",)"
      R"("sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}]}]})"};
}

/// What is read is written as it was read.
void read_metadata(const std::string& bytes) {
  const auto read_json = [](const Json& json) {
    return CheckpointMetadata::from_json(json, "fuzzed").to_json();
  };
  const auto written = read_json(parse_json(bytes, "fuzzed", {.bytes = 1u << 20, .depth = 32}));
  require(read_json(written) == written, "a state survives being written");
}

}  // namespace

const Subject kMetadata{"metadata", metadata_seeds, read_metadata, "{}[]\",:01-.^e\\un "};

}  // namespace outrider::fuzz
