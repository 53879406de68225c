#pragma once

#include <string>

#include "check/check.h"

/// The checks of decoding_checks(), by what they look at.
namespace outrider::check {

std::string check_drafting(const ModeSubject& subject);
std::string check_sampling(const ModeSubject& subject);
std::string check_order(const ModeSubject& subject);
std::string check_rollback(const ModeSubject& subject);
std::string check_keep(const ModeSubject& subject);

}  // namespace outrider::check
