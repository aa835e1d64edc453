package main

import (
	"slices"
	"strconv"
	"strings"
)

// batch is some commands in one write.
type batch struct {
	bytes    []byte
	commands int // as counted: a transaction is one
	replies  int
}

// words returns the commands of each write, with the key and the value of the job in their places.
func (j job) words() [][][]string {
	writes := j.Writes
	if j.Pipeline > 1 { // as many commands of the cycle as go into one write
		var one []string
		all := slices.Concat(writes...)
		for i := range j.Pipeline {
			one = append(one, all[i%len(all)])
		}
		writes = [][]string{one}
	}
	value := strings.Repeat("x", j.Value)
	var all [][][]string
	for _, write := range writes {
		var commands [][]string
		for _, command := range write {
			words := strings.Fields(command)
			for i, word := range words {
				switch word {
				case "key", "other":
					words[i] = j.key(word)
				case "value":
					words[i] = value
				}
			}
			commands = append(commands, words)
		}
		all = append(all, commands)
	}
	return all
}

// key is a key of the job's own.
func (j job) key(name string) string { return j.prefix + name }

// batches are the same on the wire.
func (j job) batches() []batch {
	var all []batch
	for _, commands := range j.words() {
		var b batch
		for _, words := range commands {
			b.bytes = appendCommand(b.bytes, words...)
			b.replies++
			if j.Unit != "transaction" || words[0] == "EXEC" {
				b.commands++
			}
		}
		all = append(all, b)
	}
	return all
}

// appendCommand adds a command as it is on the wire.
func appendCommand(to []byte, words ...string) []byte {
	to = append(to, '*')
	to = strconv.AppendInt(to, int64(len(words)), 10)
	to = append(to, "\r\n"...)
	for _, word := range words {
		to = append(to, '$')
		to = strconv.AppendInt(to, int64(len(word)), 10)
		to = append(to, "\r\n"...)
		to = append(to, word...)
		to = append(to, "\r\n"...)
	}
	return to
}
