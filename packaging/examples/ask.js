#!/usr/bin/gjs -m
// SPDX-License-Identifier: Apache-2.0
// One question, in GJS, as a GNOME application would ask it (Debian: gjs).
//
//     ./ask.js QUESTION

import Gio from 'gi://Gio';
import GLib from 'gi://GLib';
import System from 'system';

const bus = Gio.bus_get_sync(Gio.BusType.SESSION, null);
const text = value => GLib.Variant.new_string(value);
const messages = [{role: text('user'), content: text(System.programArgs.join(' '))}];
const [reply, descriptors] = bus.call_with_unix_fd_list_sync(
    'org.gptoss.Daemon1', '/org/gptoss/Daemon1', 'org.gptoss.Daemon1.Manager', 'Generate',
    new GLib.Variant('(aa{sv}a{sv})', [messages, {}]),
    new GLib.VariantType('(oh)'), Gio.DBusCallFlags.NONE, -1, null, null);
const handle = reply.get_child_value(1).get_handle();
const stream = new Gio.UnixInputStream({fd: descriptors.get(handle), close_fd: true});
const lines = new Gio.DataInputStream({base_stream: stream});

let answer = '';
for (;;) {
    const [line] = lines.read_line_utf8(null);
    if (line === null)
        throw new Error('gptossd died in the middle of the answer');
    const event = JSON.parse(line);
    if (event.type === 'delta')
        answer += event.text;
    if (event.type === 'error')
        throw new Error(`${event.name}: ${event.message}`);
    if (event.type === 'end')
        break;
}
print(answer);
