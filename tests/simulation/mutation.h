// Which fault is put into the code (mutations/). In a build without them there is none to choose. One for the process,
// set before anything runs.
#pragma once

#include <string>

namespace stillpoint::simulation {

void set_mutation(const std::string& name);
bool mutated(const char* name);

}  // namespace stillpoint::simulation
