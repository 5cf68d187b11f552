// Error and its wire form, which say the same.
#pragma once

#include "common/result.h"
#include "gang.pb.h"

namespace stillpoint {

wire::Failure to_wire(const Error& error);
Error from_wire(const wire::Failure& failure);

}  // namespace stillpoint
