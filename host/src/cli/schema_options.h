#pragma once

#include <memory>

#include "cli/app.h"
#include "outrider/config/schema.h"

namespace outrider::cli {

/// An option `--name-of-field` for each field that is a number or a text. Returns what the user
/// gave, by the fields' names; the schema's ranges are not looked at.
std::shared_ptr<const Json> add_schema_options(CLI::App& verb, const ConfigSchema& schema);

}  // namespace outrider::cli
