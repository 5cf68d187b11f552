#include "tests/simulation/mutation.h"

namespace stillpoint::simulation {
namespace {

std::string chosen;

}  // namespace

void set_mutation(const std::string& name) { chosen = name; }
bool mutated(const char* name) { return chosen == name; }

}  // namespace stillpoint::simulation
