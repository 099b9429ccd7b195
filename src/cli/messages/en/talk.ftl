## gptoss-ctl run

run-no-input = cannot read standard input: { $why }
run-empty = the prompt is empty: give it as an argument or on standard input
run-unwritable = cannot write the answer: { $why }
run-cut = the answer was cut: the limit of tokens is reached

## Files that go with a message

attachment-unreadable = cannot read { $file }: { $why }
attachment-too-large = it is larger than any prompt
attachment-no-text = it is no text in UTF-8

## gptoss-ctl chat

chat-not-for-programs = chat is for people; `gptoss-ctl run --json` prints events
chat-needs-terminal = chat needs a terminal; `gptoss-ctl run MODEL` answers what is on standard input
chat-no-terminal = cannot read the terminal: { $why }
chat-history-nowhere = --history needs a home folder, or XDG_STATE_HOME
chat-history-folder = cannot make { $folder }: { $why }
chat-history-ends = the history is no longer kept: { $why }

chat-begun = { $model }, { $window } tokens of context. /help lists the commands, Ctrl-D leaves.
chat-how-to-leave = Ctrl-D or /quit leaves; Ctrl-C cancels an answer

chat-loading = the model is being loaded
chat-waiting = waiting behind { $others }
chat-reading = reading { $tokens } tokens
chat-thinking = thinking
chat-thinking-so-far = thinking, about { $tokens } tokens
chat-thought = thought for { $seconds } s, { $tokens } tokens
chat-thought-about = thought for { $seconds } s, about { $tokens } tokens
chat-thought-folded = { $thought }; /show shows it
chat-forgotten = the context window is full: the { $messages } oldest messages are forgotten

chat-earlier-stays = the earlier answer stays
chat-cancelled-message = cancelled; this message is no part of the conversation
chat-cancelled-turn = [cancelled; this turn is no part of the conversation]
chat-cancelled-stays = [cancelled: what was said so far stays in the conversation]
chat-cut = [cut: the limit of tokens is reached]
chat-no-tools = [the model called { $tool }, and there are no tools here]
chat-retold = gptossd had lost the conversation; it was told its { $messages } messages again
chat-overflow = /new begins another conversation, /undo takes the last turn back; `--on-overflow drop-oldest` forgets the oldest turns by itself
chat-turn-lost = [this turn is no part of the conversation]
chat-turn-lost-rest-kept = [this turn is no part of the conversation; what was said before it is kept here and told again with your next message]

chat-another = another conversation
chat-taken-back = taken back: { $text }
chat-nothing-said = nothing was said
chat-forked = a copy, the { $depth }. deep; /back leaves it
chat-back = back where the copy was made
chat-no-copy = there is no copy to leave; /fork makes one
chat-models = { $model }; installed: { $installed }
chat-model = { $model }, { $window } tokens of context
chat-effort = effort: { $effort }
chat-instructions = instructions: { $text }
chat-no-instructions = no instructions
chat-file = { $name } ({ $bytes } bytes)
chat-files = with the next message: { $files }
chat-no-files = no files for the next message
chat-saved = saved in { $file }, without the reasoning
chat-save-there = { $file } is there already, and stays as it is
chat-save-failed = cannot write { $file }: { $why }
chat-save-instructions = Instructions
chat-save-you = You
chat-no-reasoning = there is no reasoning to show
chat-usage = { $used } of { $window } tokens of context ({ $percent } %)
chat-usage-answer = the last answer: { $tokens } tokens, { $reasoning } of them reasoning, in { $seconds } s ({ $speed } tokens/s)
chat-usage-prompt = its prompt: { $tokens } tokens, { $known } of them known, in { $seconds } s

chat-help-help = this list
chat-help-new = begin another conversation
chat-help-model = show the models, or go on with another
chat-help-effort = how long the model may think
chat-help-system = show or set the instructions; `-` removes them
chat-help-file = send a text file with the next message
chat-help-save = write the conversation: JSON if FILE ends in .json, else markdown
chat-help-undo = take the last message and its answer back
chat-help-retry = have the last message answered again
chat-help-fork = go on in a copy of the conversation
chat-help-back = return to where the last /fork was
chat-help-show = show the reasoning before the last answer
chat-help-usage = how full the context window is
chat-help-quit = leave; so does Ctrl-D
chat-help-lines = Enter sends. Another line: Alt-Enter, Ctrl-J, or a backslash before Enter; pasted lines stay together.
chat-help-slash = A message that begins with a slash is entered with two. Ctrl-C cancels an answer.

chat-save-what = give /save a file's name
chat-no-argument = /{ $command } takes no argument
chat-no-effort = { $effort } is no effort: low, medium or high
chat-unknown = there is no command /{ $command }: /help lists them. A message may begin with //
chat-unknown-near = there is no command /{ $command }: did you mean /{ $near }? A message may begin with //
