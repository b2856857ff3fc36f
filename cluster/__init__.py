"""The ground the stages stand on: Ray session, artifact store, stage contract, parallel units."""
