package proxy_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What can go wrong when many clients share a connection that was made for one, and the tests that show that it does
// not. (Those of other packages are named with theirs.) The tests of the files beside this one, hazards_*_test.go, are
// for what no other test is about.
//
// Replies:
//
//	a command is not answered              TestACommandThatIsNotAnsweredNeverReachesASharedConnection
//	a failed AUTH is not answered          TestAFailedAUTHBehindOtherRepliesIsAnswered, multiplex.TestChecksGoOneAtATimeOnAConnectionOfTheirOwn
//	a script is answered twice             TestASecondReplyToAScriptReachesNobody, TestAScriptThatIsAnsweredTwiceDoesNotBreakALane, multiplex.TestABarrierBreaksTheLaneBeforeAnybodyElseGetsAnything
//	a message comes within a reply         TestAMessageToOneselfIsNeverTakenForAReply, TestNoMessageComesBetweenThePiecesOfALargeReply
//	a word ends the connection             TestTheWordsThatEndAConnectionEndOnlyTheirSendersInEveryForm, TestAWordFromABrowserEndsOnlyItsSender
//	bad input ends the connection          TestAProtocolErrorIsToldInRedissWordsAfterEarlierReplies, TestOddInputIsTakenAsRedisTakesIt, TestAClientWithoutPasswordIsHeldToSmallerLimits
//	protocol versions differ               TestClientsOfBothProtocolVersionsGetTheirOwnKindOfReplies, resp.TestTopIsTheTypeOfTheReplyBehindItsAttributes
//	replies are switched off               TestAReplyThatIsNotWantedIsMissingExactlyWhereRedisOmitsIt
//	replies come from several connections  TestRepliesFromDifferentConnectionsComeInOrder, TestNoClientEverReadsAByteOfAnother
//	a reply is not read                    TestAClientThatReadsSlowlyDoesNotStallThoseWhoShareItsConnection, TestAClientThatNeverReadsHarmsNobodyElse
//
// State:
//
//	a transaction on a shared connection   TestEveryCommandIsAnsweredAsByRedisItself, TestAConnectionIsLentOnlyWhileThereIsStateOnIt
//	a transaction is refused               TestTheBodyOfATransactionThatGetsNoConnectionDoesNotRun, TestAClientWhoseMultiOrWatchIsRefusedIsClosed
//	WATCH loses its connection             TestWATCHDoesNotOutliveItsConnection
//	WAIT on a connection without writes    TestWAITNeverClaimsThatAReplicaHasWhatItHasNot
//	a client goes while it is blocked      TestNothingIsPoppedForAClientThatHasGone, TestWhoHangsUpBehindACommandThatWaitsIsNotWaitedFor
//	a client closes its sending side       TestAClientThatStopsSendingStillGetsItsReplies
//	who is to interrupt waits behind       TestAScriptWithoutEndIsKilledThoughItOccupiesTheLane, TestCommandsThatInterruptOthersNeedNoConnectionThatOthersHold
//	a pause stalls others                  TestAPauseOfWritesHoldsUpNobodyWhoReads, TestAPauseDelaysNotOneReadThatIsUnderWay
//	a flush occupies its connection        TestAFlushOccupiesNoSharedConnection
//	a command prepares for the next one    TestStateThatTheProxyDoesNotFollowIsNeverOnASharedConnection
//	field sets of HIMPORT, unknown state   TestStateThatTheProxyDoesNotFollowIsNeverOnASharedConnection, TestTheUpstreamTakesACommandOffTheLanesAndPutsNoneOnThem
//	reads that do not count                TestReadsWithoutATouchAreOnlyThoseOfWhoAskedForIt
//	memory outlives its command            TestAValueIsStoredAsItWasSentWhateverOthersSendMeanwhile, multiplex.TestRequestsComeBackFromASendQueueAsTheyWentIn
//	state outlives its client              TestWhatValkeyClientsSayOfThemselvesGoesWithThem, multiplex.TestAPinThatIsNotProvablyCleanIsClosed
//	what a client caches has changed       TestClientsAreToldOfChangesToWhatTheyHaveReadAndOfNoOthers, TestWhenTheConnectionThatTracksBreaksItsClientsAreToldThatAllMayHaveChanged, TestChangesAreToldToTheClientThatTheyAreRedirectedTo
//	scripts are forgotten                  TestAScriptThatIsNotThereAnyMoreIsReportedToEveryClient
//	cursors                                TestAScanGoesOnWhereverItsNextCommandGoes
//	notifications name a database          TestNotificationsOfChangesToKeysNameTheRightDatabase
//
// Identity:
//
//	the wrong user's permissions           TestARefusalNamesTheClientsOwnUser, TestEachActsAsHimselfOnTheControlConnection
//	a password is taken on trust           TestAPasswordIsCheckedEachTimeAndNeverOnASharedConnection, multiplex.TestAUsersLinksHaveThePasswordThatWasAcceptedLast
//	a user is deleted                      TestTheClientsOfAUserThatIsDeletedAreClosed, TestTheClientsOfAUserThatIsInNoFileAnyMoreAreClosed
//	permissions are taken away             TestAPermissionThatIsTakenAwayIsTakenFromOneUserOnly
//	who has not authenticated              TestWhoHasNotAuthenticatedIsRefusedInRedissOrder, TestWhoHasNotAuthenticatedIsToldSoFirst
//	ids and addresses                      TestAClientIsTheSameInAllThatItIsToldOfItself, TestTheListShowsTheClientsInTheUpstreamsForm
//	a shared connection is killed          TestKillClosesWhomItIsMeantForAndNobodyElse, TestWhatTheUpstreamIsAskedToKillIsNobody
//	a shared connection is evicted         TestRedisMayEvictNoneOfTheConnections
//	libraries' first words                 TestTheHandshakesOfLibrariesAreAnsweredAsByRedis, TestClientLibrariesAreToldWhatRedisTellsThem
//
// Redis:
//
//	it becomes a replica                   TestWhenRedisBecomesAReplicaItsOwnErrorsAreTold
//	it loads, it is full, it cannot save   TestWhileRedisLoadsItsDataClientsAreToldSo, TestWhatRedisRefusesForReasonsOfItsOwnIsPassedOn
//	it is busy with a script               multiplex.TestABusyUpstreamIsAskedAgainWhereItStands
//	it takes no more connections           multiplex.TestARefusalThatNobodyAskedForIsNoReply
//	it is monitored                        TestOnlyWhoMonitorsSeesWhatOthersDo
//	it closes an idle connection           TestAConnectionThatOnlyBreaksClosesNobodyWhoIsIdle
//	it goes with commands in flight        TestWhenAConnectionBreaksNoWriteIsDoneTwiceAndNoReaderNotices, multiplex.TestAWriteIsNeverSentTwice
//	a command would freeze or end it       TestARefusalIsALineAtItsPlaceAndTheSessionGoesOn
//	a subscriber is slow                   TestASubscriberThatDoesNotReadIsClosedAloneAndTheOthersMissNothing
//
// Without a test, since nothing can be done, or is:
//
//	a slow command holds up its lane       Redis has one thread: it would hold up everybody on connections of their own too
//	MOVED and the like name nodes          passed on, as Redis says them: the proxy is not for clusters
//	the proxy's own commands are seen      by MONITOR and in the statistics; ARCHITECTURE.md says which they are
const tableOfHazards = "hazards_test.go"

func TestEveryTestInTheTableOfHazardsExists(t *testing.T) {
	tests := map[string]bool{}
	for prefix, dir := range map[string]string{"": ".", "multiplex.": "../multiplex", "resp.": "../multiplex/resp"} {
		files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s has no tests, %v", dir, err)
		}
		for _, file := range files {
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, decl := range parsed.Decls {
				if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Test") {
					tests[prefix+f.Name.Name] = true
				}
			}
		}
	}
	parsed, err := parser.ParseFile(token.NewFileSet(), tableOfHazards, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for _, comment := range parsed.Comments {
		for _, name := range regexp.MustCompile(`(?:\b\w+\.)?\bTest\w+`).FindAllString(comment.Text(), -1) {
			named++
			if !tests[name] {
				t.Errorf("the table names %s, which does not exist", name)
			}
		}
	}
	if named < 40 {
		t.Errorf("the table names %d tests", named)
	}
}
