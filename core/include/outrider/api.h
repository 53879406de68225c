#pragma once

// Marks what a shared library of Outrider's exports; everything else is hidden.
#define OUTRIDER_API __attribute__((visibility("default")))
