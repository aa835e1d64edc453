// Command bench measures the proxy beside what it competes with: Redis without a proxy, and other proxies
// (see README.md for how to run it and how to read it).
//
//	go run ./bench                 every scenario, then the verdict on the targets
//	go run ./bench idle            one scenario
//	go run ./bench --json out.json the same, and every sample as JSON
//
// Words, spelled the same in code, tables and README:
//
//	scenario    one kind of measurement; a row of the table scenarios
//	load        what redis-benchmark is told to do; a row of the table loads
//	contender   a way from the client to Redis: direct, redbouncer or a peer; a row of the table contenders
//	rig         one Redis and some contenders in front of it, running
//	target      a contender that runs in a rig
//	round       one measurement of every target, one after the other
//	sample      what one measurement of one target gave
//	goal        what the project promises of a figure; a row of the table goals
//
// Everything is started here, on free loopback ports, and ended here. The machine is never quiet, so targets
// are measured in turn, round after round, and compared within a round: a disturbance that lasts longer than a
// round hits every target alike and cancels out of the ratios.
package main
