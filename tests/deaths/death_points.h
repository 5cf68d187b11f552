// Ends or stops the process it is linked into at a chosen step, by itself: a transaction of the catalog, a record of
// the node daemon or an output that the coordinator has cut back that is put in its place, a message to the other side.
// It takes the place of the libraries' functions, so the programs' own code is as it is. Inert unless the environment
// names a file, STILLPOINT_TEST_ORDERS, and as long as that file is not there. It says, in one line, one of:
//
//   record                                  every step is appended to FILE.steps, a line each
//   kill|stop before|after OCCURRENCE STEP  such as "kill before 1 send freeze"; counted since the line is there
//
// Steps: "commit", "record NAME", "truncate", "send KIND" with KIND as the message's field is called. Signs of life and
// what acknowledges output are none. Tests only.
#pragma once

namespace stillpoint::test {

// Looks at the environment. Once, before there are threads. from_coordinator: what it sends are wire::ToHost.
void read_death_points(bool from_coordinator);

}  // namespace stillpoint::test
