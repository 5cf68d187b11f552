// An event on its way from an adapter to the core. Value; moved from thread to thread.
#pragma once

#include <functional>

#include "coordinator/core/events.h"

namespace stillpoint::coordinator {

struct Delivery {
  Event event;
  std::function<void()> done;  // called, from any thread, when the event has been dealt with; may be empty
};

}  // namespace stillpoint::coordinator
