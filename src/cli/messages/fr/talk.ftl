## gptoss-ctl run

run-no-input = impossible de lire l’entrée standard : { $why }
run-empty = la requête est vide : donnez-la en argument ou sur l’entrée standard
run-unwritable = impossible d’écrire la réponse : { $why }
run-cut = la réponse a été coupée : la limite de jetons est atteinte

## Files that go with a message

attachment-unreadable = impossible de lire { $file } : { $why }
attachment-too-large = il est plus grand que toute requête
attachment-no-text = ce n’est pas du texte en UTF-8

## gptoss-ctl chat

chat-not-for-programs = chat s’adresse aux personnes ; « gptoss-ctl run --json » écrit des événements
chat-needs-terminal = chat a besoin d’un terminal ; « gptoss-ctl run MODÈLE » répond à ce qui est sur l’entrée standard
chat-no-terminal = impossible de lire le terminal : { $why }
chat-history-nowhere = --history a besoin d’un dossier personnel, ou de XDG_STATE_HOME
chat-history-folder = impossible de créer { $folder } : { $why }
chat-history-ends = l’historique n’est plus gardé : { $why }

chat-begun = { $model }, contexte de { $window } jetons. « /help » liste les commandes, Ctrl-D quitte.
chat-how-to-leave = Ctrl-D ou « /quit » quitte ; Ctrl-C annule une réponse

chat-loading = le modèle est en cours de chargement
chat-waiting = en attente derrière { $others ->
    [one] { $others } requête
   *[other] { $others } requêtes
}
chat-reading = lecture de { $tokens ->
    [one] { $tokens } jeton
   *[other] { $tokens } jetons
}
chat-thinking = réflexion
chat-thinking-so-far = réflexion, environ { $tokens ->
    [one] { $tokens } jeton
   *[other] { $tokens } jetons
}
chat-thought = réflexion de { $seconds } s, { $tokens ->
    [one] { $tokens } jeton
   *[other] { $tokens } jetons
}
chat-thought-about = réflexion de { $seconds } s, environ { $tokens ->
    [one] { $tokens } jeton
   *[other] { $tokens } jetons
}
chat-thought-folded = { $thought } ; « /show » la montre
chat-forgotten = le contexte est plein : { $messages ->
    [one] le plus ancien message est oublié
   *[other] les { $messages } plus anciens messages sont oubliés
}

chat-earlier-stays = la réponse précédente reste
chat-cancelled-message = annulé ; ce message ne fait pas partie de la conversation
chat-cancelled-turn = [annulé ; ce tour ne fait pas partie de la conversation]
chat-cancelled-stays = [annulé : ce qui a été dit jusque-là reste dans la conversation]
chat-cut = [coupé : la limite de jetons est atteinte]
chat-no-tools = [le modèle a appelé { $tool }, et il n’y a pas d’outils ici]
chat-retold = gptossd avait perdu la conversation ; { $messages ->
    [one] son message lui a été redit
   *[other] ses { $messages } messages lui ont été redits
}
chat-overflow = « /new » commence une autre conversation, « /undo » retire le dernier tour ; « --on-overflow drop-oldest » oublie de lui-même les plus anciens tours
chat-turn-lost = [ce tour ne fait pas partie de la conversation]
chat-turn-lost-rest-kept = [ce tour ne fait pas partie de la conversation ; ce qui a été dit avant lui est gardé ici et sera redit avec votre prochain message]

chat-another = une autre conversation
chat-taken-back = retiré : { $text }
chat-nothing-said = rien n’a été dit
chat-forked = une copie, de niveau { $depth } ; « /back » la quitte
chat-back = retour là où la copie a été faite
chat-no-copy = il n’y a pas de copie à quitter ; « /fork » en fait une
chat-models = { $model } ; installés : { $installed }
chat-model = { $model }, contexte de { $window } jetons
chat-effort = effort : { $effort }
chat-instructions = instructions : { $text }
chat-no-instructions = pas d’instructions
chat-file = { $name } ({ $bytes ->
    [one] { $bytes } octet
   *[other] { $bytes } octets
})
chat-files = avec le prochain message : { $files }
chat-no-files = pas de fichier pour le prochain message
chat-saved = enregistré dans { $file }, sans le raisonnement
chat-save-there = { $file } existe déjà, et reste tel quel
chat-save-failed = impossible d’écrire { $file } : { $why }
chat-save-instructions = Instructions
chat-save-you = Vous
chat-no-reasoning = il n’y a pas de raisonnement à montrer
chat-usage = { $used } jetons sur les { $window } du contexte ({ $percent } %)
chat-usage-answer = la dernière réponse : { $tokens ->
    [one] { $tokens } jeton
   *[other] { $tokens } jetons
}, dont { $reasoning } de raisonnement, en { $seconds } s ({ $speed } jetons/s)
chat-usage-prompt = sa requête : { $tokens ->
    [one] { $tokens } jeton
   *[other] { $tokens } jetons
}, dont { $known } déjà connus, en { $seconds } s

chat-help-help = cette liste
chat-help-new = commencer une autre conversation
chat-help-model = montrer les modèles, ou continuer avec un autre
chat-help-effort = combien de temps le modèle peut réfléchir
chat-help-system = montrer ou fixer les instructions ; « - » les supprime
chat-help-file = envoyer un fichier texte avec le prochain message
chat-help-save = écrire la conversation : en JSON si FILE finit par .json, sinon en markdown
chat-help-undo = retirer le dernier message et sa réponse
chat-help-retry = faire répondre à nouveau au dernier message
chat-help-fork = continuer dans une copie de la conversation
chat-help-back = revenir là où était le dernier « /fork »
chat-help-show = montrer le raisonnement d’avant la dernière réponse
chat-help-usage = à quel point le contexte est plein
chat-help-quit = quitter ; Ctrl-D aussi
chat-help-lines = Entrée envoie. Une autre ligne : Alt-Entrée, Ctrl-J, ou une barre oblique inverse avant Entrée ; des lignes collées restent ensemble.
chat-help-slash = Un message qui commence par une barre oblique s’écrit avec deux. Ctrl-C annule une réponse.

chat-save-what = donnez à « /save » le nom d’un fichier
chat-no-argument = « /{ $command } » ne prend pas d’argument
chat-no-effort = { $effort } n’est pas un effort : low, medium ou high
chat-unknown = il n’y a pas de commande « /{ $command } » : « /help » les liste. Un message peut commencer par //
chat-unknown-near = il n’y a pas de commande « /{ $command } » : vouliez-vous dire « /{ $near } » ? Un message peut commencer par //
